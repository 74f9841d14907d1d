// Sorting and search by DataTables, and buttons that copy. Without scripts the tables stand as they are.
(() => {
  "use strict";
  const missing = (value) => value === "" || value === null || value === undefined;
  const number = (value) => (value !== "" && Number.isFinite(Number(value)) ? Number(value) : null);
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    return x !== null && y !== null ? x - y : String(a).localeCompare(String(b), "en", { numeric: true });
  };
  // What is missing stands last, whichever way a column is sorted.
  const ordered = (sign) => (a, b) => {
    if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
    return sign * compare(a, b);
  };

  const sortable = (box) => {
    const table = box.querySelector("table");
    const words = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("words"));
    const grid = new window.DataTable(table, {
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      searching: "searchable" in box.dataset,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      columnDefs: words.map((isWords, target) => ({
        targets: target,
        type: "measured",
        orderSequence: isWords ? ["asc", "desc", ""] : ["desc", "asc", ""],
      })),
    });
    if ("searchable" in box.dataset) box.prepend(finder(grid));
  };

  const finder = (grid) => {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "Filter rows";
    input.className = "finder";
    input.setAttribute("aria-label", "Filter rows");
    input.addEventListener("input", () => grid.search(input.value).draw());
    return input;
  };

  // Of several panels one is shown at a time; without scripts they stand below each other.
  const choosing = (box) => {
    const panels = [...box.children];
    if (panels.length < 2) return;
    const group = Object.assign(document.createElement("div"), { className: "choice", role: "group" });
    group.setAttribute("aria-label", box.dataset.label);
    const buttons = panels.map((panel) => Object.assign(document.createElement("button"), { type: "button", textContent: panel.dataset.title }));
    const open = (chosen) => panels.forEach((panel, index) => {
      panel.hidden = panel !== chosen;
      buttons[index].setAttribute("aria-pressed", String(panel === chosen));
    });
    buttons.forEach((button, index) => button.addEventListener("click", () => open(panels[index])));
    group.append(`${box.dataset.label} `, ...buttons);
    box.before(group);
    open(panels.find((panel) => "opened" in panel.dataset) ?? panels[0]);
  };

  const copying = (button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    if (window.DataTable) {
      window.DataTable.ext.type.order["measured-asc"] = ordered(1);
      window.DataTable.ext.type.order["measured-desc"] = ordered(-1);
      document.querySelectorAll(".table.sortable").forEach(sortable);
    }
    document.querySelectorAll(".panels").forEach(choosing);
    if (navigator.clipboard) document.querySelectorAll("button.copy").forEach(copying);
  });
})();
