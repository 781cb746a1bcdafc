"""The networks of `networks.py` in PyTorch, on the same parameters.

`on_torch(model, params)` brings those into torch's layouts (kernels `[out, in, height, width]`),
which changes no kernel. Each network takes one example, as `torch.func` wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks import BLOCKS

Tensor = torch.Tensor


def on_torch(tree: Any) -> Any:
    """A tree of tensors; kernels of convolutions in torch's order."""
    if isinstance(tree, dict):
        return {name: on_torch(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [on_torch(value) for value in tree]
    array = np.asarray(tree)
    return torch.from_numpy(
        np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
    )


def examples(model: str, x: np.ndarray) -> Tensor:
    """Images with channels first."""
    images = model in ("cnn", "resnet18")
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if images else x)


def mlp(params: Any, x: Tensor) -> Tensor:
    for w, b in params[:-1]:
        x = torch.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def cnn(params: Any, x: Tensor) -> Tensor:
    for w, b in params["convs"]:
        x = torch.relu(F.conv2d(x[None], w, b, padding=1)[0])
    return x.permute(1, 2, 0).reshape(-1) @ params["w"] + params["b"]


def same(x: Tensor, w: Tensor, stride: int) -> Tensor:
    """A convolution padded as `SAME` pads it: more at the end."""
    size, window = x.shape[-1], w.shape[-1]
    pad = max((-(-size // stride) - 1) * stride + window - size, 0)
    before, after = pad // 2, pad - pad // 2
    return F.conv2d(F.pad(x, (before, after, before, after))[None], w, stride=stride)[0]


def resnet18_of(statistics: Any) -> Callable[[Any, Tensor], Tensor]:
    """ResNet-18 with the given statistics."""

    def norm(p: Any, fixed: Any, x: Tensor) -> Tensor:
        p, fixed = p["BatchNorm_0"], fixed["BatchNorm_0"]
        scale = p["scale"] * torch.rsqrt(fixed["var"] + 1e-5)
        return (x - fixed["mean"][:, None, None]) * scale[:, None, None] + p["bias"][:, None, None]

    def block(p: Any, fixed: Any, x: Tensor, stride: int) -> Tensor:
        y = same(x, p["Conv_0"]["kernel"], stride)
        y = torch.relu(norm(p["Norm_0"], fixed["Norm_0"], y))
        y = norm(p["Norm_1"], fixed["Norm_1"], same(y, p["Conv_1"]["kernel"], 1))
        if "Conv_2" in p:
            x = norm(p["Norm_2"], fixed["Norm_2"], same(x, p["Conv_2"]["kernel"], stride))
        return torch.relu(x + y)

    def f(params: Any, x: Tensor) -> Tensor:
        x = same(x, params["Conv_0"]["kernel"], 1)
        x = torch.relu(norm(params["Norm_0"], statistics["Norm_0"], x))
        for i, (_, stride) in enumerate(BLOCKS):
            x = block(params[f"Block_{i}"], statistics[f"Block_{i}"], x, stride)
        return x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]

    return f


def layer_norm(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], g, b)


def transformer_block(x: Tensor, p: Any, heads: int, *, causal: bool) -> Tensor:
    tokens, d = x.shape
    y = layer_norm(x, p["g1"], p["b1"]) @ p["qkv"]
    q, k, v = (a.transpose(0, 1) for a in y.reshape(tokens, heads, -1).chunk(3, -1))
    scores = q @ k.transpose(1, 2) / (d / heads) ** 0.5
    if causal:
        mask = torch.tril(torch.ones(tokens, tokens, dtype=torch.bool))
        scores = torch.where(mask, scores, -1e9)
    mixed = (torch.softmax(scores, -1) @ v).transpose(0, 1).reshape(tokens, d)
    x = x + mixed @ p["out"]
    return x + feed_forward(layer_norm(x, p["g2"], p["b2"]), p["up"], p["down"])


def feed_forward(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.gelu(x @ up, approximate="tanh") @ down


def patches(x: Tensor) -> Tensor:
    return x.reshape(8, 4, 8, 4, 3).permute(0, 2, 1, 3, 4).reshape(64, 48)


def vit(params: Any, x: Tensor) -> Tensor:
    x = patches(x) @ params["embed"] + params["positions"]
    for p in params["blocks"]:
        x = transformer_block(x, p, 4, causal=False)
    return x.mean(0) @ params["head"]


def mixer(params: Any, x: Tensor) -> Tensor:
    x = patches(x) @ params["embed"]
    for p in params["blocks"]:
        y = layer_norm(x, p["g1"], p["b1"]).T
        x = x + feed_forward(y, p["token_up"], p["token_down"]).T
        x = x + feed_forward(layer_norm(x, p["g2"], p["b2"]), p["up"], p["down"])
    return x.mean(0) @ params["head"]


def gpt(params: Any, ids: Tensor) -> Tensor:
    x = F.embedding(ids, params["table"]) + params["positions"][: len(ids)]
    blocks = params["blocks"]
    for layer in range(len(blocks["qkv"])):
        p = {name: stack[layer] for name, stack in blocks.items()}
        x = transformer_block(x, p, len(params["table"][0]) // 32, causal=True)
    return x.mean(0) @ params["head"]


def rnn(params: Any, x: Tensor) -> Tensor:
    c = h = torch.zeros(params["u"].shape[0])
    for x_t in x:
        i, g, o, forget = (x_t @ params["w"] + h @ params["u"] + params["b"]).chunk(4)
        c = torch.sigmoid(forget) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h @ params["head"]


NETWORKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "mlp": mlp,
    "mlp-paper": mlp,
    "cnn": cnn,
    "mixer": mixer,
    "vit": vit,
    "gpt": gpt,
    "rnn": rnn,
}
