"""Checks that contributors call on their own mixers, ops and tasks; `import glocal` does not import them.

    from glocal.testing import check_mixer, check_op, check_task

Each check tries one property after the other and raises AssertionError, in one sentence, for the first that fails.
"""

from glocal.testing.agreement import assert_agree, inside_nan, random, randomised
from glocal.testing.mixers import check_mixer
from glocal.testing.ops import check_op
from glocal.testing.tasks import check_task

__all__ = ["assert_agree", "check_mixer", "check_op", "check_task", "inside_nan", "random", "randomised"]
