"""Short names for the tests: what the library compares functions and modules with."""

from glocal.testing.agreement import assert_agree, inside_nan, poisoned, random, randomised, run

__all__ = ["assert_agree", "inside_nan", "poisoned", "random", "randomised", "run"]
