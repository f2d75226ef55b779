"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const all = [...body.rows];
  const size = Number(table.dataset.page || 0);
  let rows = all, page = 0, bar, count, back, next;
  table.classList.add("live");
  const show = () => {
    const last = size ? Math.max(0, Math.ceil(rows.length / size) - 1) : 0;
    page = Math.min(page, last);
    body.replaceChildren(...(size ? rows.slice(page * size, (page + 1) * size) : rows));
    if (!bar) return;
    const from = rows.length ? page * size + 1 : 0;
    count.textContent = `${from}–${Math.min(rows.length, (page + 1) * size)} of ${rows.length}`;
    back.disabled = page === 0;
    next.disabled = page >= last;
  };
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return text === "–" ? null : Number.isNaN(number) || !row.cells[column].classList.contains("num") ? text : number;
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.classList.contains("bare")) return;
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const one = value(a, column), two = value(b, column);
        if (one === null || two === null) return (one === null) - (two === null);
        const sign = typeof one === "number" && typeof two === "number" ? one - two : String(one).localeCompare(String(two), "en", { numeric: true });
        return up ? sign : -sign;
      };
      all.sort(order);
      rows = [...rows].sort(order);
      page = 0;
      show();
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  if (size && all.length > size) {
    bar = document.createElement("div");
    bar.className = "pager";
    count = document.createElement("span");
    const button = (text, step) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.addEventListener("click", () => { page += step; show(); });
      return made;
    };
    back = button("Back", -1);
    next = button("Next", 1);
    if (table.dataset.filter) {
      const field = document.createElement("input");
      field.type = "search";
      field.placeholder = "filter by case, structure, status";
      field.setAttribute("aria-label", field.placeholder);
      field.addEventListener("input", () => {
        const wanted = field.value.toLowerCase();
        rows = all.filter((row) => row.textContent.toLowerCase().includes(wanted));
        page = 0;
        show();
      });
      bar.append(field);
    }
    bar.append(back, next, count);
    table.parentElement.after(bar);
    show();
  }
  addEventListener("beforeprint", () => body.replaceChildren(...rows));
  addEventListener("afterprint", show);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
// A link into a folded part opens it, and all that it lies in.
const reveal = () => {
  const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!aim) return;
  for (let part = aim; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  aim.scrollIntoView();
};
addEventListener("hashchange", reveal);
document.querySelectorAll('a[href^="#"]').forEach((link) => link.addEventListener("click", () => setTimeout(reveal)));
reveal();
