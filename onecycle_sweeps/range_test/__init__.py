"""The learning-rate range test of Smith (arXiv:1506.01186, section 3.3): its ramp, its end, and what its curve says."""

from onecycle_sweeps.range_test.curves import curve, marks, smooth, until_diverged
from onecycle_sweeps.range_test.judge import onset, verdict
from onecycle_sweeps.range_test.ramp import Ramp
from onecycle_sweeps.range_test.rules import suggestions

__all__ = ["Ramp", "curve", "marks", "onset", "smooth", "suggestions", "until_diverged", "verdict"]
