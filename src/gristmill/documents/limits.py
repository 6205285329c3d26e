"""How much one document may take. Figures: about four times what the largest manual of the corpus takes (docs/documents.md)."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    seconds: float = 30.0  # wall clock of all tries together, then SIGKILL
    cpu_seconds: int = 30
    memory_bytes: int = 768 * MIB  # RLIMIT_DATA: what is really used
    address_bytes: int = 3072 * MIB  # RLIMIT_AS: PDFium reserves 1.2 GB of addresses that it never touches
    input_bytes: int = 256 * MIB
    answer_bytes: int = 64 * MIB  # all pages as JSON
    line_bytes: int = 16 * MIB  # one line of it; only a table cell of megabytes comes near
    pages: int = 10_000
    open_files: int = 64
    processes: int = 4096  # of the user, threads included; seccomp refuses processes where there is seccomp

    # archives: docx, pptx, xlsx, odt, ods, epub
    entries: int = 10_000
    inflated_bytes: int = 512 * MIB  # all entries together
    part_bytes: int = 128 * MIB  # one entry that is parsed as a tree
    ratio: int = 200  # inflated to packed, of entries above `ratio_from`; real documents stay below 60
    ratio_from: int = 1 * MIB

    # markup
    depth: int = 512
    nodes: int = 4_000_000
    table_cells: int = 1_000_000
