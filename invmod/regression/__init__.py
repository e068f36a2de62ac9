"""Regression on whichever modalities a row has, with one kernel regression per pattern."""

from invmod.regression.kernels import Kernel
from invmod.regression.model import PatternKernelRidge
from invmod.regression.patterns import PatternChoice

__all__ = ["Kernel", "PatternChoice", "PatternKernelRidge"]
