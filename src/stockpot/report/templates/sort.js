// Tables are complete without this; it only lets a reader sort rows within their groups.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headers = [...table.querySelectorAll("thead th")];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") !== "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        const number = cell.dataset.value;
        return number === undefined ? cell.textContent.trim() : Number(number);
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const compared = typeof x === "number" && typeof y === "number" ? x - y : `${x}`.localeCompare(`${y}`);
        return down ? -compared : compared;
      };
      for (const body of table.tBodies) {
        body.append(...[...body.rows].filter((row) => !row.classList.contains("head")).sort(order));
      }
    });
  });
}
