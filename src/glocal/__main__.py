"""`python -m glocal`: the command `glocal`."""

from glocal.cli import main

raise SystemExit(main())
