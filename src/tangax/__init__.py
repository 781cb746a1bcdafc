"""Empirical kernels of any JAX function: NTK, NNGP, Taylor expansions."""

from . import stax as stax
from ._blocks.store import load_kernel as load_kernel
from ._methods.kernel_fns import NtkImplementation as NtkImplementation
from ._shared.get import EmpiricalKernel as EmpiricalKernel
from .batching import batch as batch
from .empirical import empirical_kernel_fn as empirical_kernel_fn
from .empirical import empirical_nngp_fn as empirical_nngp_fn
from .empirical import empirical_ntk_fn as empirical_ntk_fn
from .empirical import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from .monte_carlo import monte_carlo_kernel_fn as monte_carlo_kernel_fn
from .taylor import linearize as linearize
from .taylor import taylor_expand as taylor_expand

__version__ = "0.1.0"
