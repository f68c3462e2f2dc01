"""Other ways to compute a tangent kernel, each a function (model, x, trace) -> array maker.

A maker is called once or more and returns the kernel as an array of shape (n, k, n, k), or
(n, n) for the trace. What is compiled ahead is compiled before the maker is returned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

Maker = Callable[[], np.ndarray]


def engine(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """This project's `tangent_kernel`."""
    from tangent.kernel.matrix import tangent_kernel

    return lambda: tangent_kernel(model, x, outputs="trace" if trace else "full").numpy()


def published_loop(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """What the code of Chizat et al. 2019 does, re-implemented from reading it.

    The network is the difference of two copies. Images go in batches of at most ten; for every
    pair of batches the gradients of both are computed, one backward pass through the batch an
    image and output, and multiplied in float32.
    """
    frozen = copy.deepcopy(model)
    size = max(s for s in range(1, 11) if len(x) % s == 0)
    weights = list(model.parameters())

    def gradients(batch: Tensor) -> Tensor:
        outputs = model(batch) - frozen(batch)
        n, k = outputs.shape
        rows = torch.zeros(n * k, sum(w.numel() for w in weights))
        for row, output in zip(rows, outputs.flatten(), strict=True):
            output.backward(retain_graph=True)
            start = 0
            for w in weights:
                row[start : start + w.numel()] = w.grad.view(-1)
                w.grad.zero_()
                start += w.numel()
        return rows

    def make() -> np.ndarray:
        batches = x.split(size)
        strips = []
        for i, left in enumerate(batches):
            rows = gradients(left)
            strips.append([rows @ gradients(right).T for right in batches[i:]])
        for strip in strips:
            strip[:0] = [torch.zeros_like(strip[0])] * (len(batches) - len(strip))
        upper = torch.cat([torch.cat(strip, dim=1) for strip in strips]).double()
        kernel = (upper.triu() + upper.triu(1).T).numpy()
        n = len(x)
        return _traced(kernel.reshape(n, len(kernel) // n, n, -1), trace)

    return make


def backward_each(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """One backward pass an output and input, the gradients kept, then one product."""

    def make() -> np.ndarray:
        rows = []
        for one in x:
            for output in model(one.unsqueeze(0))[0]:
                gradients = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
                rows.append(torch.cat([g.flatten() for g in gradients]))
        j = torch.stack(rows)
        n = len(x)
        return _traced((j @ j.T).numpy().reshape(n, len(j) // n, n, -1), trace)

    return make


def _traced(kernel: np.ndarray, trace: bool) -> np.ndarray:
    return np.einsum("iaja->ij", kernel) if trace else kernel


def _jacobians(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    params = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(params: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, params, (one.unsqueeze(0),)).squeeze(0)

    return vmap(jacrev(outputs), (None, 0))(params, x)


def func_whole(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """torch.func: vmap(jacrev), one product over all parameters."""

    def make() -> np.ndarray:
        j = torch.cat([j.flatten(2) for j in _jacobians(model, x).values()], dim=2).detach()
        if trace:
            return (j.flatten(1) @ j.flatten(1).T).numpy()
        return torch.einsum("iap,jbp->iajb", j, j).numpy()

    return make


def func_contracted(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """torch.func: vmap(jacrev), one product a parameter (the recipe of PyTorch's tutorial)."""
    formula = "iap,jap->ij" if trace else "iap,jbp->iajb"

    def make() -> np.ndarray:
        parts = [j.detach().flatten(2) for j in _jacobians(model, x).values()]
        return sum(torch.einsum(formula, j, j) for j in parts).numpy()

    return make


def batched_products(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """Per-example gradients as batched products of layer inputs and cotangents, then J J^T."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    def make() -> np.ndarray:
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        hooks = [
            m.register_forward_hook(lambda m, i, o: seen.update({m: (i[0], o)})) for m in layers
        ]
        output = model(x)
        for hook in hooks:
            hook.remove()
        results = [seen[m][1] for m in layers]
        k = output.shape[1]
        cotangents = [
            torch.autograd.grad(output[:, a].sum(), results, retain_graph=True) for a in range(k)
        ]
        n = len(x)
        total = torch.zeros(n, n) if trace else torch.zeros(n * k, n * k)
        for index, module in enumerate(layers):
            with torch.no_grad():
                d = torch.stack([c[index] for c in cotangents], dim=1)
                a = seen[module][0].detach()
                if isinstance(module, nn.Linear):
                    d, a, groups = d.unsqueeze(3), a.unsqueeze(2), 1
                else:
                    d, groups = d.flatten(3), module.groups
                    a = F.unfold(
                        a, module.kernel_size, module.dilation, module.padding, module.stride
                    )
                p = d.shape[3]
                left = d.reshape(n, k, groups, -1, p).transpose(1, 2).reshape(n * groups, -1, p)
                right = a.reshape(n * groups, -1, p)
                j = torch.bmm(left, right.transpose(1, 2)).reshape(n, groups, k, -1)
                j = torch.cat([j.transpose(1, 2).flatten(2), d.sum(3)], dim=2)
                j = j.flatten(1) if trace else j.flatten(0, 1)
                total.addmm_(j, j.T)
        return (total if trace else total.reshape(n, k, n, k)).numpy()

    return make


def nngeometry(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """nngeometry: the dense Jacobian, then its products (faster than its own Gram matrix).

    Of grouped convolutions release 0.4 returns other gradients; the table shows the error.
    """
    from nngeometry.jacobian import Jacobian
    from nngeometry.layercollection import LayerCollection
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=len(x))

    def make() -> np.ndarray:
        jacobian = Jacobian(
            model,
            loader,
            function=lambda *batch: model(batch[0]),
            layer_collection=LayerCollection.from_model(model),
        )
        j = jacobian.to_torch().detach().transpose(0, 1).contiguous()
        n, k, _ = j.shape
        if trace:
            return (j.flatten(1) @ j.flatten(1).T).numpy()
        return (j.flatten(0, 1) @ j.flatten(0, 1).T).reshape(n, k, n, k).numpy()

    return make


def neural_tangents(model: nn.Module, x: Tensor, trace: bool) -> Maker:
    """neural-tangents: structured derivatives (its fastest), compiled ahead by XLA."""
    import jax
    import jax.numpy as jnp

    _repair_jax()
    import neural_tangents as nt

    parameters = {n: jnp.asarray(p.detach().numpy()) for n, p in model.named_parameters()}

    def outputs(p: dict, x: jax.Array) -> jax.Array:
        return _jax_forward(model, "", p, x)

    kernel = nt.empirical_ntk_fn(
        outputs,
        trace_axes=(-1,) if trace else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    inputs = jnp.asarray(x.numpy())
    compiled = jax.jit(kernel).lower(inputs, None, parameters).compile()
    k = model(x[:1]).shape[1]

    def make() -> np.ndarray:
        result = np.asarray(compiled(inputs, None, parameters))
        # Its axes are (n, n, k, k), and its trace is the mean over the outputs.
        return result * k if trace else result.transpose(0, 2, 1, 3)

    return make


def _repair_jax() -> None:
    """neural-tangents 0.6.5 looks for names that later releases of jax have moved."""
    import jax
    from jax._src.interpreters import ad as source
    from jax.interpreters import ad

    for name in dir(source):
        if not name.startswith("__") and name not in ad.__dict__:
            setattr(ad, name, getattr(source, name))
    ad.config = jax.config


def _jax_forward(module: nn.Module, prefix: str, p: dict, x):
    """The same network in jax, for the modules that the cases are made of."""
    import jax
    import jax.numpy as jnp

    if isinstance(module, nn.Conv2d):
        (ph, pw), (dh, dw) = module.padding, module.dilation
        x = jax.lax.conv_general_dilated(
            x,
            p[f"{prefix}weight"],
            module.stride,
            [(ph, ph), (pw, pw)],
            rhs_dilation=(dh, dw),
            feature_group_count=module.groups,
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )
        return x + p[f"{prefix}bias"][None, :, None, None]
    if isinstance(module, nn.Linear):
        return x @ p[f"{prefix}weight"].T + p[f"{prefix}bias"]
    if isinstance(module, nn.ReLU):
        return jax.nn.relu(x)
    if isinstance(module, nn.MaxPool2d):
        window = (1, 1, module.kernel_size, module.kernel_size)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return x.mean((2, 3), keepdims=True)
    if isinstance(module, nn.Flatten):
        return x.reshape(len(x), -1)
    if isinstance(module, nn.Identity):
        return x
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            x = _jax_forward(child, f"{prefix}{name}.", p, x)
        return x
    if hasattr(module, "shortcut"):

        def part(name: str, x):
            return _jax_forward(getattr(module, name), f"{prefix}{name}.", p, x)

        return jax.nn.relu(part("conv2", jax.nn.relu(part("conv1", x))) + part("shortcut", x))
    raise TypeError(f"no JAX counterpart of {type(module).__name__} at {prefix!r}; add one here")


PEERS = {
    "tangent": engine,
    "neural-tangents, structured": neural_tangents,
    "batched products": batched_products,
    "torch.func, by parameter": func_contracted,
    "torch.func, whole": func_whole,
    "nngeometry": nngeometry,
    "one backward pass an output": backward_each,
    "published loop": published_loop,
}
