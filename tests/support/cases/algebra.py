"""Linear algebra."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.table import case, each, positive


def gram(w):
    return w @ w.T + np.eye(len(w))


case("solve", lambda x, w: jnp.linalg.solve(gram(w), x.T).T, x=(3,), w=(3, 3), core=True)
case("inverse", lambda x, w: x @ jnp.linalg.inv(gram(w)), x=(3,), w=(3, 3))
case("cholesky", lambda x, w: x @ jnp.linalg.cholesky(gram(w)), x=(3,), w=(3, 3))
case("triangular_solve", lambda x, w: jax.scipy.linalg.solve_triangular(jnp.tril(w) + 2 * np.eye(3), x.T, lower=True).T, x=(3,), w=(3, 3))
case("slogdet", lambda x, w: x * jnp.linalg.slogdet(gram(w))[1], x=(3,), w=(3, 3))
case("determinant", lambda x, w: x * jnp.linalg.det(w), x=(3,), w=(3, 3), polynomial=3)
case("eigh", lambda x, w: (lambda e: x @ (e[1] * jnp.exp(e[0])) @ e[1].T)(jnp.linalg.eigh(gram(w))), x=(3,), w=(3, 3), core=True)
case("eigenvalues", lambda x, w: x * jnp.linalg.eigvalsh(gram(w)), x=(3,), w=(3, 3))
case("qr", lambda x, w: x @ jnp.linalg.qr(w)[0], x=(3,), w=(3, 2))
case("singular_values", lambda x, w: x * jnp.linalg.svd(w, compute_uv=False), x=(3,), w=(3, 3))
case("matrix_exponential", lambda x, w: x @ jax.scipy.linalg.expm(w - w.T), x=(3,), w=(3, 3))
case("gaussian_process", each(lambda x, s: jnp.linalg.solve(jnp.exp(-s * (x[:, None] - x) ** 2) + 0.1 * np.eye(3), x)), x=(3,), s=positive())
case("deep_equilibrium", lambda x, w, u: jnp.linalg.solve(np.eye(3) - 0.3 * jnp.tanh(w), (x @ u).T).T, w=(3, 3), u=(4, 3))
case("fft_of_weight", lambda x, w: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), 4), w=(4,), polynomial=1)
case("fourier_layer", lambda x, re, im: jnp.fft.irfft(jnp.fft.rfft(x) * lax.complex(re, im), 4), re=(3,), im=(3,), polynomial=1, core=True)
case("fft_of_activations", lambda x, w: jnp.abs(jnp.fft.fft(x @ w)), w=(4, 3))
