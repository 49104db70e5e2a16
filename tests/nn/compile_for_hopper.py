"""Compiles the fused kernels for compute capability 9.0, and prints what came out as JSON; needs no GPU.

``python tests/nn/compile_for_hopper.py``
"""

import json
import re
import subprocess
import tempfile
import warnings
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bioshare.nn import fused, kernels
from bioshare.nn.batched import ProductPlan, new_weight

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
ALIGNED = [["tt.divisibility", 16]]
RESOURCES = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
BATCH, CHANNELS, SIZE = 512, 32, 16


class Compiled:
    """Stands for a kernel; a launch compiles it instead."""

    def __init__(self, kernel):
        self.kernel, self.facts = kernel, []

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, num_warps, num_stages, **constants):
        signature, attributes = dict.fromkeys(constants, "constexpr"), {}
        for index, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            tensor = isinstance(value, torch.Tensor)
            signature[name] = POINTERS[value.dtype] if tensor else "i32"
            if tensor or value % 16 == 0:
                attributes[(index,)] = ALIGNED
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = {"num_warps": num_warps, "num_stages": num_stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        instructions = set(re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.]*)", compiled.asm["ptx"], re.MULTILINE))
        wanted = {name.split(".mma")[0] for name in instructions if name.startswith(("wgmma.mma", "cp.async.c"))}
        facts = {"name": self.kernel.__name__, "shared": compiled.metadata.shared, "instructions": sorted(wanted)}
        self.facts.append(facts | resources(compiled.asm["cubin"]))


def resources(binary):
    """Registers per thread, and bytes of them that had to go to memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([RESOURCES, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL"))
    return {"registers": registers, "spilled": stack + local}


def main():
    compiled = [Compiled(getattr(kernels, name)) for name in ("forward", "input_gradient", "weight_gradient")]
    for kernel in compiled:
        setattr(kernels, kernel.kernel.__name__, kernel)
    weight = new_weight((SIZE, SIZE, CHANNELS, CHANNELS, 3, 3), torch.float32, "meta")
    for dtype, tiles in product((torch.float16, torch.bfloat16), fused.TILES):
        images = torch.empty(BATCH, CHANNELS, SIZE, SIZE, dtype=dtype, device="meta")
        plan = ProductPlan.of(images, weight, (1, 1), (1, 1, 1, 1), (1, 1), 1)
        fused.forward(images, weight, plan, tiles)
        fused.input_gradient(images, weight, plan, tiles)
        fused.weight_gradient(images, images, plan, torch.float32, tiles)
    print(json.dumps([facts for kernel in compiled for facts in kernel.facts], indent=1))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of other targets
    main()
