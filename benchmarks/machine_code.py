"""Parse GPU machine code: its instructions, registers and loops, and the loads and stores of loops.

It reads the SASS of NVIDIA's disassembler and LLVM's assembly for AMD.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import networkx  # torch depends on it


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: str
    followers: tuple[int, ...]
    """Positions of the instructions that may come next."""


def parse(assembly: str) -> list[Instruction]:
    """The listings of `nvdisasm` (`/*0010*/ @!P0 BRA `(.L_x_1) ;`) and of LLVM for AMD (`s_cbranch_scc1 .LBB0_1`)."""
    lines, labels = [], {}
    sass, amd = r"/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?([A-Z][\w.]*)", r"((?:s|v|ds|global|buffer|flat|scratch)_\w+)"
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(lines)
        elif found := re.match(rf"\s+(?:{sass}|{amd})([^;]*)", line):
            lines.append((found[1], found[2] or found[3], found[4]))
    instructions = []
    for place, (predicate, opcode, operands) in enumerate(lines):
        name = opcode.split(".")[0]
        if name in ("BRX", "BRXU", "JMX", "JMXU", "s_setpc_b64", "s_swappc_b64"):
            raise NotImplementedError(f"`{opcode}{operands}`: where it goes is only known at run time.")
        followers = [labels[label] for label in re.findall(r"\.L\w+", operands) if label in labels]
        # A branch may have its condition among the operands: `BRA.U UP0, `(.L_x_1)`
        is_conditional = predicate or "," in operands
        always_leaves = name in ("BRA", "EXIT", "RET", "s_branch", "s_endpgm") and not is_conditional
        if not always_leaves and place + 1 < len(lines):
            followers.append(place + 1)
        instructions.append(Instruction(opcode, operands.strip(), tuple(followers)))
    return instructions


def nvidia_registers(usage: str, code: list[Instruction]) -> tuple[int, int, int]:
    """Registers, bytes of local memory, accesses to it."""
    sizes = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    spills = sum(instruction.opcode.split(".")[0] in ("LDL", "STL") for instruction in code)
    return sizes["REG"], sizes["STACK"] + sizes["LOCAL"], spills


def amd_registers(assembly: str) -> tuple[int, int, int]:
    """VGPRs, bytes of private memory, spilled VGPRs and SGPRs."""

    def field(name: str) -> int:
        return int(re.search(rf"^\s*\.{name}:\s*(\d+)$", assembly, re.MULTILINE)[1])

    spills = field("vgpr_spill_count") + field("sgpr_spill_count")
    return field("vgpr_count"), field("private_segment_fixed_size"), spills


def access_width(opcode: str) -> tuple[str, int] | None:
    """`load` or `store` and the bytes of a thread, if the instruction goes to global memory."""
    name, *parts = opcode.split(".")
    if name in ("LDG", "LD", "STG", "ST"):
        sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
        return "load" if name[0] == "L" else "store", max((sizes[part] for part in parts if part in sizes), default=4)
    pattern = r"(?:global|buffer|flat)_(load|store)_(?:[us]?(byte|short)|dword(?:x(\d))?)(?:_d16)?(?:_hi)?"
    if found := re.fullmatch(pattern, opcode):
        return found[1], {"byte": 1, "short": 2}.get(found[2]) or 4 * int(found[3] or 1)
    # Copies to shared memory, atomics and the like: none is expected, and none may be missed
    if re.match(r"LDGSTS|UBLK|UTMA|ATOM|RED[^U]*$|(global|buffer|flat)_(?!wbl2|inv|gl)", opcode):
        raise NotImplementedError(f"The bytes of `{opcode}` are not known.")
    return None


def is_special(opcode: str) -> bool:
    return opcode.startswith(("MUFU", "v_exp_f", "v_log_f", "v_rcp_f", "v_rsq_f", "v_sqrt_f"))


def traffic(code: list[Instruction], block: int, logits_per_thread: float, itemsize: int) -> dict[str, float]:
    """Instructions, loads and stores per logit in the loops over columns; a thread has this many logits of a block."""
    sums, widths = Counter(), []
    for loop in loops(code):
        accesses = [access for access in (access_width(i.opcode) for i in loop) if access]
        if not accesses:
            continue
        logits = logits_per_thread * blocks_per_turn(loop, block)
        for kind, width in accesses:
            sums[kind] += width / logits
            widths.append(width)
        sums["instructions"] += len(loop) / logits
        sums["special"] += sum(is_special(i.opcode) for i in loop) / logits
    return {
        "instructions": round(sums["instructions"], 1),
        "special": round(sums["special"], 1),
        "width": min(widths),
        "loads": sums["load"] / itemsize,
        "stores": sums["store"] / itemsize,
        "bytes": sums["load"] + sums["store"],
    }


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each loop, wherever the compiler has placed them."""
    graph = networkx.DiGraph((place, follower) for place, i in enumerate(code) for follower in i.followers)
    return [[code[place] for place in part] for part in networkx.strongly_connected_components(graph) if len(part) > 1]


def count_outside_loops(code: list[Instruction]) -> int:
    """Instructions that a thread issues at most once."""
    return len(code) - sum(map(len, loops(code)))


def blocks_per_turn(loop: Iterable[Instruction], block: int) -> int:
    """Blocks that one iteration of the loop advances by: more than one where it has been unrolled.

    The counter of the columns is the register that grows by the smallest multiple of the block; others count bytes.
    """
    growth = Counter()
    for instruction in loop:
        if "ADD" not in instruction.opcode.upper():
            continue
        target, *operands = re.split(r",\s*", instruction.operands)
        numbers = [int(operand, 16) for operand in operands if re.fullmatch(r"-?0x[0-9a-f]+", operand)]
        if numbers and (target in operands or instruction.opcode == "s_addk_i32"):
            growth[target] += numbers[0]
    steps = [step // block for step in growth.values() if step > 0 and step % block == 0]
    if not steps:
        raise ValueError(f"No register of this loop counts its columns: {[(i.opcode, i.operands) for i in loop]}")
    return min(steps)
