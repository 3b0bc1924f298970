"""The page of the comparison with other tools says what its table says."""

from benchmarks.head_to_head.run import TABLE
from benchmarks.rows import read_rows

PAGE = TABLE.parent.parent.parent / "docs" / "benchmarks" / "head-to-head.md"
COLUMNS = {
    "selector": "selector",
    "no refit": "selector, no refit",
    "linear probe": "linear probe",
    "plain script": "plain script",
    "torchvision": "torchvision recipe",
    "fastai": "fastai fine_tune",
    "AutoGluon": "autogluon",
    "Trainer, 20 epochs": "trainer, 20 epochs",
    "SetFit": "setfit",
}


def test_each_cell_of_the_page_is_a_row_of_the_table():
    rows = {(r["set"], r["items"], r["contender"]): r["test_accuracy"] for r in read_rows(TABLE) if r["status"] == "ok"}
    seen = 0
    names: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells[0] in ("images (items)", "texts (items)"):
            names = [COLUMNS[name] for name in cells[1:]]
        elif names and line.startswith("|") and "(" in cells[0]:
            name, items = cells[0].rstrip(")").replace(",", "").split(" (")
            for contender, shown in zip(names, cells[1:], strict=True):
                if shown == "–":
                    assert (name, items, contender) not in rows
                    continue
                assert abs(float(shown) - 100 * float(rows[name, items, contender])) <= 0.0501
                seen += 1
    assert seen == len(rows)
