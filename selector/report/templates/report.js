"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const FIRST = 50; // rows of a long table until all are asked for
  let order = rows;
  const heads = Array.from(table.tHead.rows[1].cells);

  // cells without data-sort have no value: they stay last in both directions
  const value = (row, column, numeric) => {
    const text = row.cells[column].dataset.sort;
    return text === undefined || text === "" ? null : numeric ? Number(text) : text.toLowerCase();
  };

  const sort = (column) => {
    const head = heads[column];
    const numeric = head.querySelector("button").dataset.numeric === "1";
    const before = head.getAttribute("aria-sort");
    // figures are read from the best down, names and ranks from the first up
    const first = numeric && column !== 0 ? "descending" : "ascending";
    const direction = before === null ? first : before === "ascending" ? "descending" : "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const sorted = rows
      .map((row, index) => ({ row, index, key: value(row, column, numeric) }))
      .sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
        if (a.key === b.key) return a.index - b.index;
        return (a.key < b.key ? -1 : 1) * sign;
      });
    order = sorted.map((item) => item.row);
    body.append(...order);
    apply();
  };

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const all = document.getElementById("all");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let most = FIRST;
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    order.forEach((row) => {
      const match = words.every((word) => texts.get(row).includes(word));
      row.hidden = !match || count >= most;
      count += match ? 1 : 0;
    });
    all.hidden = count <= most;
    all.textContent = `Show all ${count}`;
    shown.textContent = words.length ? `${count} of ${rows.length} models` : rows.length === 1 ? "1 model" : `${rows.length} models`;
  };
  apply();
  all.addEventListener("click", () => { most = Infinity; apply(); });
  filter.addEventListener("input", apply);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { filter.value = ""; apply(); }
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); filter.focus(); }
  });

  // tables that go on beyond their box say so
  const more = document.getElementById("more-columns");
  document.querySelectorAll(".scroll").forEach((box) => {
    const look = () => {
      box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      box.classList.toggle("more-left", box.scrollLeft > 1);
      if (box.contains(table)) more.hidden = box.scrollWidth <= box.clientWidth + 1;
    };
    box.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(box);
    look();
  });

  // what is folded on a screen must be on paper
  let folded = [];
  addEventListener("beforeprint", () => {
    most = Infinity;
    apply();
    folded = Array.from(document.querySelectorAll("details:not([open])"));
    folded.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((item) => { item.open = false; }));
})();
