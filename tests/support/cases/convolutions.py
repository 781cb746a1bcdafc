"""Convolutions in every layout."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
from jax import lax

from support.cases.functions import conv
from support.cases.table import case, each

case("conv_valid", lambda x, w: conv(x, w), x=(2, 4, 4), w=(2, 2, 3, 3), polynomial=1)
case("conv_same", lambda x, w: conv(x, w, padding="SAME"), x=(2, 3, 3), w=(2, 2, 3, 3), polynomial=1, core=True, kinds="conv")
case("conv_strides", lambda x, w: conv(x, w, (2, 1)), x=(2, 5, 3), w=(2, 2, 2, 2), polynomial=1, kinds="conv")
case("conv_strides_same", lambda x, w: conv(x, w, (2, 2), "SAME"), x=(2, 5, 4), w=(2, 2, 3, 3), polynomial=1)
case("conv_even_same", lambda x, w: conv(x, w, padding="SAME"), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_padding", lambda x, w: conv(x, w, padding=((2, 0), (0, 1))), x=(2, 3, 3), w=(2, 2, 3, 2), polynomial=1, kinds="conv")
case("conv_negative_padding", lambda x, w: conv(x, w, padding=((-1, 0), (0, -1))), x=(2, 4, 4), w=(2, 2, 2, 2), polynomial=1)
case("conv_one_by_one", lambda x, w: conv(x, w), x=(3, 2, 2), w=(2, 3, 1, 1), polynomial=1)
case("conv_whole_window", lambda x, w: conv(x, w)[:, :, 0, 0], x=(2, 3, 3), w=(2, 2, 3, 3), polynomial=1)
case("conv_rhs_dilation", lambda x, w: conv(x, w, rhs_dilation=(2, 1)), x=(2, 5, 3), w=(2, 2, 2, 2), polynomial=1, kinds="conv")
case("conv_lhs_dilation", lambda x, w: conv(x, w, padding=((1, 1), (2, 2)), lhs_dilation=(2, 3)), x=(2, 2, 2), w=(2, 2, 2, 2), polynomial=1, kinds="conv")
case("conv_everything", lambda x, w: conv(x, w, (2, 1), ((2, 1), (1, 2)), lhs_dilation=(2, 1), rhs_dilation=(1, 2), feature_group_count=2), x=(4, 3, 3), w=(4, 2, 3, 2), polynomial=1, core=True, kinds="conv")
case("conv_groups", lambda x, w: conv(x, w, feature_group_count=2), x=(4, 3, 3), w=(6, 2, 3, 2), polynomial=1, core=True, kinds="conv")
case("conv_depthwise", lambda x, w: conv(x, w, feature_group_count=3), x=(3, 3, 3), w=(3, 1, 2, 2), polynomial=1, core=True, kinds="conv")
case("conv_depthwise_multiplier", lambda x, w: conv(x, w, feature_group_count=2), x=(2, 3, 3), w=(4, 1, 3, 2), polynomial=1)
case("conv_separable", lambda x, w, v: conv(jnp.tanh(conv(x, w, feature_group_count=2)), v), x=(2, 3, 3), w=(2, 1, 2, 2), v=(2, 2, 1, 1))
case("conv_nhwc", lambda x, w: conv(x, w, layout="NHWC", kernel="HWIO"), x=(4, 4, 2), w=(3, 3, 2, 2), polynomial=1, core=True)
case("conv_nhwc_groups", lambda x, w: conv(x, w, layout="NHWC", kernel="HWIO", feature_group_count=2), x=(3, 3, 4), w=(2, 3, 2, 4), polynomial=1, kinds="conv")
case("conv_odd_layout", lambda x, w: conv(x, w, layout="NWCH", kernel="WOHI", padding="SAME"), x=(3, 2, 3), w=(3, 2, 2, 2), polynomial=1, kinds="conv")
case("conv_batch_last", lambda x, w: conv(x.transpose(1, 2, 3, 0), w, layout="CHWN", kernel="IHWO").transpose(3, 0, 1, 2), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_1d", lambda x, w, b: conv(x, w, layout="NWC", kernel="WIO") + b, x=(5, 2), w=(3, 2, 2), b=(2,), polynomial=1, core=True)
case("conv_1d_causal", lambda x, w: conv(x, w, padding=((2, 0),), layout="NWC", kernel="WIO"), x=(3, 2), w=(3, 2, 2), polynomial=1, kinds="conv")
case("conv_1d_jnp", each(lambda x, w: jnp.convolve(x, w, mode="same")), x=(5,), w=(3,), polynomial=1)
case("conv_3d", lambda x, w: conv(x, w, layout="NDHWC", kernel="DHWIO"), x=(3, 2, 3, 2), w=(2, 2, 2, 2, 2), polynomial=1, core=True, kinds="conv")
case("conv_flipped", lambda x, w: conv(x, w[:, :, ::-1, ::-1]), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1, core=True, kinds="conv")
case("conv_kernel_reshaped", lambda x, w: conv(x, w.reshape(2, 2, 2, 2)), x=(2, 3, 3), w=(8, 2), polynomial=1, kinds="conv")
case("conv_kernel_scaled", lambda x, w, s: conv(x, w * s), x=(2, 3, 3), w=(2, 2, 2, 2), s=(2, 1, 1, 1), polynomial=2)
case("conv_transpose", lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME"), x=(2, 2, 2), w=(3, 3, 2, 1), polynomial=1, core=True, kinds="conv")
case("conv_transpose_valid", lambda x, w: lax.conv_transpose(x, w, (1, 2), "VALID", transpose_kernel=True), x=(2, 2, 2), w=(2, 2, 1, 2), polynomial=1)
case("conv_transpose_by_hand", lambda x, w: conv(x, w[::-1, ::-1], padding=((1, 1), (1, 1)), layout="NHWC", kernel="HWIO", lhs_dilation=(2, 2)), x=(2, 2, 2), w=(2, 2, 2, 1), polynomial=1)
case("conv_weight_as_input", lambda x, w: conv(w, x[:, None]).swapaxes(0, 1)[:, 0], x=(2, 2), w=(1, 1, 4, 4), polynomial=1, core=True)
case("conv_weight_on_both_sides", lambda x, w: conv(conv(x, w, padding="SAME"), conv(w, w, padding="SAME")), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=3)
case("conv_batch_groups", lambda x, w: jnp.concatenate([conv(one, w, batch_group_count=2) for one in x]), x=(2, 2, 3, 3), w=(2, 2, 2, 2), polynomial=1, core=True, kinds="generic")
case("conv_batch_groups_vmapped", each(lambda x, w: conv(x, w, batch_group_count=2)[0]), x=(2, 2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_vmapped", each(lambda x, w: conv(x[None], w)[0]), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1, kinds="conv")
case("conv_patches", lambda x, w: jnp.einsum("nphw,pk->nkhw", lax.conv_general_dilated_patches(x, (2, 2), (1, 1), "VALID"), w), x=(1, 3, 3), w=(4, 2), polynomial=1)
case("global_pooling", lambda x, w, v: jnp.mean(jnp.tanh(conv(x, w)), (2, 3)) @ v, x=(2, 4, 4), w=(3, 2, 3, 3), v=(3, 2))
case("two_spatial_sizes", lambda x, w, v: jnp.mean(jnp.tanh(conv(x, w)), (2, 3)) @ v, x=(2, 4, 4), x2=(2, 3, 5), w=(3, 2, 3, 3), v=(3, 2), core=True)


@case(x=(4, 4, 1), w=(3, 3, 1, 2), b=(2,), v=(2, 2, 2, 2), u=(2, 3), smooth=False, core=True)
def cnn(x, w, b, v, u):
    x = jax.nn.relu(conv(x, w, padding="SAME", layout="NHWC", kernel="HWIO") + b)
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.mean(conv(x, v, layout="NHWC", kernel="HWIO"), (1, 2)) @ u


@case(x=(4, 4, 1), w=(3, 3, 1, 2), u=(8, 3))
def average_pooling_and_flatten(x, w, u):
    x = jnp.tanh(conv(x, w, padding="SAME", layout="NHWC", kernel="HWIO"))
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(len(x), -1) @ u
