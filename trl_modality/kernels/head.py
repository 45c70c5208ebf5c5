"""The three matrix products of the head on one tile: logits, gradient of the hidden states, gradient of the head."""

import functools
from collections.abc import Iterator

import torch

from .spec import accumulation_dtype


class HeadProducts:
    """The head `[V, H]` and its bias, with the sums of their gradients over the tiles.

    A head in another dtype than the products is converted once if its copy may be whole, else block by block at every
    use. Its gradient is summed in float32 (float64 for float64): in half precision the rounding of every tile would
    add up. Of a single tile there is no sum, and the gradient of a bfloat16 head is written in bfloat16, rounded once
    as in eager PyTorch. (In float16 it could overflow before the loss scale is taken out.)

    Args:
        weight: `[V, H]`.
        bias: `[V]` or `None`.
        dtype: dtype of the products.
        block_rows: rows of the head converted, or gathered, at a time.
        needs_weight, needs_bias: whether the gradient of the head, or of its bias, is needed; else none is allocated.
        copies: whether a head in another dtype is converted as a whole.
        is_one_tile: whether the gradient is that of one tile, of which all columns are taken.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        block_rows: int,
        needs_weight: bool,
        needs_bias: bool,
        *,
        copies: bool = False,
        is_one_tile: bool = False,
    ):
        self.weight = weight.to(dtype) if copies else weight
        self.dtype, self.block_rows = dtype, block_rows
        self.bias = None if bias is None else bias.to(dtype)
        self.sum_dtype = accumulation_dtype(dtype)
        is_written_once = is_one_tile and weight.dtype == dtype == torch.bfloat16
        # Not zeroed: the first tile overwrites it, which spares one pass over the largest tensor there is
        self.weight_gradient = (
            torch.empty(weight.shape, dtype=dtype if is_written_once else self.sum_dtype, device=weight.device)
            if needs_weight
            else None
        )
        self._weight_gradient_is_empty = True
        self.bias_gradient = (
            torch.zeros(weight.shape[0], dtype=self.sum_dtype, device=weight.device) if needs_bias else None
        )

    def logits(self, hidden_NH: torch.Tensor, out_NV: torch.Tensor) -> None:
        """Write the logits of one tile, bias included, before scale and soft-capping."""
        for columns, weight_BH in self._blocks():
            if self.bias is None:
                torch.mm(hidden_NH, weight_BH.t(), out=out_NV[:, columns])
            else:
                torch.addmm(self.bias[columns], hidden_NH, weight_BH.t(), out=out_NV[:, columns])

    def hidden_gradient(
        self, gradient_NV: torch.Tensor, out_NH: torch.Tensor, columns_K: torch.Tensor | None = None
    ) -> None:
        """Write the gradient of a tile's hidden states, in the dtype of the sums; from `columns_K` alone if given."""
        if columns_K is None:
            for columns, weight_BH in self._blocks():
                multiply_into(out_NH, gradient_NV[:, columns], weight_BH, accumulate=columns.start > 0)
            return
        out_NH.zero_()
        for piece_B in columns_K.split(self.block_rows):
            weight_BH = self.weight.index_select(0, piece_B).to(self.dtype)
            multiply_into(out_NH, gradient_NV.index_select(1, piece_B), weight_BH, accumulate=True)

    def add_head_gradient(
        self, gradient_NV: torch.Tensor, hidden_NH: torch.Tensor, columns_K: torch.Tensor | None = None
    ) -> None:
        """Add the gradients of the head and of its bias from one tile, if they are needed.

        With `columns_K` only these rows of the head get theirs; the bias, whose sum is cheap, gets all of its own.
        """
        if self.bias_gradient is not None:
            self.bias_gradient.add_(gradient_NV.sum(0, dtype=self.sum_dtype))
        if self.weight_gradient is None:
            return
        if columns_K is not None and self._weight_gradient_is_empty:
            self.weight_gradient.zero_()
            self._weight_gradient_is_empty = False
        accumulate = not self._weight_gradient_is_empty
        self._weight_gradient_is_empty = False
        if columns_K is not None:
            product_BH = self.weight_gradient.new_empty(min(len(columns_K), self.block_rows), hidden_NH.shape[1])
            for piece_B in columns_K.split(self.block_rows):
                product = product_BH[: len(piece_B)]
                multiply_into(product, gradient_NV.index_select(1, piece_B).t(), hidden_NH, accumulate=False)
                self.weight_gradient.index_add_(0, piece_B, product)
            return
        at_a_time = len(self.weight)
        if self.weight_gradient.dtype != self.dtype and needs_temporary(self.dtype, self.weight.device):
            at_a_time = self.block_rows
        for start in range(0, len(self.weight), at_a_time):
            columns = slice(start, start + at_a_time)
            multiply_into(self.weight_gradient[columns], gradient_NV[:, columns].t(), hidden_NH, accumulate)

    def finished(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of the head and of its bias; zeros where there was no tile."""
        if self.weight_gradient is not None and self._weight_gradient_is_empty:
            self.weight_gradient.zero_()
        return self.weight_gradient, self.bias_gradient

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """The head in the dtype of the products: whole if it has that dtype, else converted block by block."""
        vocab_size, hidden_size = self.weight.shape
        if self.weight.dtype == self.dtype:
            yield slice(0, vocab_size), self.weight
            return
        converted = torch.empty(self.block_rows, hidden_size, dtype=self.dtype, device=self.weight.device)
        for start in range(0, vocab_size, self.block_rows):
            columns = slice(start, min(start + self.block_rows, vocab_size))
            yield columns, converted[: columns.stop - start].copy_(self.weight[columns])


@functools.cache
def takes_out_dtype(operation: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `mm` writes, or `addmm` adds, products of half precision to float32 without rounding them to half.

    It is tried on a small product, whose result nobody waits for. CUDA's `mm` does it from torch 2.8 on; its `addmm`
    took no float32 sum before 2.10. Elsewhere it is refused, and on AMD's GPUs not known to be exact.
    """
    if dtype not in (torch.bfloat16, torch.float16) or torch.version.hip is not None:
        return False
    factor = torch.zeros(16, 16, dtype=dtype, device=device)
    out = torch.zeros(16, 16, dtype=torch.float32, device=device)
    try:
        if operation == "mm":
            torch.mm(factor, factor, out_dtype=out.dtype, out=out)
        else:
            torch.addmm(out, factor, factor, out_dtype=out.dtype, out=out)
    except (RuntimeError, TypeError):  # refused by the kernel; unknown to an older torch
        return False
    return True


def needs_temporary(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a product is made, and perhaps rounded to half, in a tensor of its own before it is added to a sum."""
    return dtype != accumulation_dtype(dtype) and not takes_out_dtype("addmm", dtype, device)


def multiply_into(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, accumulate: bool) -> None:
    """`out = a @ b` or `out += a @ b`, summed in the dtype of `out`.

    Where no kernel writes half-precision products to float32, the product itself is first rounded to half.
    """
    if a.dtype == out.dtype:
        out.addmm_(a, b) if accumulate else torch.mm(a, b, out=out)
    elif not takes_out_dtype("mm", a.dtype, out.device):
        product = torch.mm(a, b)
        out.add_(product) if accumulate else out.copy_(product)
    elif not accumulate:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    elif takes_out_dtype("addmm", a.dtype, out.device):
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        out.add_(torch.mm(a, b, out_dtype=out.dtype))
