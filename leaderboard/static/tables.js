// Tables that sort by DataTables, and the tool bar of those that are searched. Without scripts they stand as they are.
(() => {
  "use strict";
  const { chosen, choose, follow, exports } = window.npasbench;
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
  const make = (tag, given = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), given);
    element.append(...inside);
    return element;
  };

  const sortable = (box) => {
    const table = box.querySelector("table");
    const heads = [...table.tHead.rows[0].cells];
    for (const head of heads) {
      head.dataset.units = head.querySelector("small")?.textContent ?? "";
      head.dataset.name = head.firstChild?.textContent.trim() ?? "";
    }
    const searched = "searchable" in box.dataset;
    const grid = new window.DataTable(table, {
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      searching: searched,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      columnDefs: heads.map((head, target) => ({
        targets: target,
        type: "measured",
        visible: !("extra" in head.dataset),
        orderSequence: head.classList.contains("words") ? ["asc", "desc", ""] : ["desc", "asc", ""],
      })),
    });
    if (searched) equip(box, grid, heads);
  };

  /** A button that opens a group of choices below it; Escape and a click elsewhere close it. */
  const menu = (label, ...inside) => {
    const text = make("span", { textContent: label });
    const group = make("div", { className: "choices" }, ...inside);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", label);
    const element = make("details", { className: "menu" }, make("summary", {}, text), group);
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      element.open = false;
      element.firstChild.focus();
    });
    return { element, text };
  };

  /** Boxes to tick, of which those that are ticked are given on. */
  const ticks = (options, changed) => {
    const boxes = options.map(({ value, label, always }) => {
      const input = make("input", { type: "checkbox", value, disabled: Boolean(always) });
      input.addEventListener("change", changed);
      return { input, label: make("label", {}, input, ` ${label}`) };
    });
    return {
      labels: boxes.map(({ label }) => label),
      ticked: () => boxes.filter(({ input }) => input.checked).map(({ input }) => input.value),
      tick: (values) => boxes.forEach(({ input }) => { input.checked = values.includes(input.value); }),
    };
  };

  const filter = (grid, name, key, title, place) => {
    const facet = (row) => grid.row(row).node().getAttribute(`data-facet-${place}`) ?? "";
    const values = [...new Set(grid.rows().indexes().toArray().map(facet))];
    const changed = () => { choose(key, picks.ticked()); apply(); };
    const picks = ticks(values.map((value) => ({ value, label: value || "none" })), changed);
    const { element, text } = menu(title, ...picks.labels);
    const apply = () => {
      const wanted = new Set(picks.ticked());
      text.textContent = wanted.size ? `${title}: ${wanted.size > 2 ? `${wanted.size} of ${values.length}` : [...wanted].join(", ")}` : title;
      element.classList.toggle("active", wanted.size > 0);
      grid.search.fixed(key, wanted.size ? (_, __, row) => wanted.has(facet(row)) : null).draw();
    };
    return { element, read: () => { picks.tick(chosen(key)); apply(); } };
  };

  const picker = (grid, key, heads) => {
    const usual = heads.filter((head) => !("extra" in head.dataset)).map((head) => head.dataset.key);
    const label = (head) => [head.dataset.name, head.dataset.units].filter(Boolean).join(", ");
    const changed = () => {
      const ticked = picks.ticked();
      choose(key, ticked.join() === usual.join() ? [] : ticked);
      apply();
    };
    const picks = ticks(heads.map((head, at) => ({ value: head.dataset.key, label: label(head), always: !at })), changed);
    const { element, text } = menu("Columns", ...picks.labels);
    const apply = () => {
      const wanted = picks.ticked();
      heads.forEach((head, place) => grid.column(place).visible(!place || wanted.includes(head.dataset.key), false));
      text.textContent = wanted.length < heads.length ? `Columns: ${wanted.length} of ${heads.length}` : "Columns";
      element.classList.toggle("active", wanted.join() !== usual.join());
    };
    const read = () => {
      const known = chosen(key).filter((one) => heads.some((head) => head.dataset.key === one));
      picks.tick(known.length ? [heads[0].dataset.key, ...known] : usual);
      apply();
    };
    return { element, read };
  };

  const saver = (grid, name, said) => {
    const page = location.pathname.split("/").pop().replace(/\.html$/, "");
    const caption = document.querySelector("h1").textContent;
    const rows = Object.entries(exports.formats).map(([title, { ending, type, write }]) => {
      const save = make("button", { type: "button", textContent: "Save" });
      save.setAttribute("aria-label", `Save as ${title}`);
      save.addEventListener("click", () => {
        exports.save(`${page}.${name}.${ending}`, write(grid, caption), type);
        said(`Saved as ${title}.`);
      });
      const copy = make("button", { type: "button", textContent: "Copy" });
      copy.setAttribute("aria-label", `Copy as ${title}`);
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(write(grid, caption));
        said(`Copied as ${title}.`);
      });
      return make("div", { className: "format" }, make("span", { textContent: title }), save, ...(navigator.clipboard ? [copy] : []));
    });
    return menu("Save what is shown", ...rows);
  };

  const finder = (grid, key) => {
    const input = make("input", { type: "search", placeholder: "Find rows", className: "finder" });
    input.setAttribute("aria-label", "Find rows that hold these words");
    input.addEventListener("input", () => {
      choose(key, input.value ? [input.value] : []);
      grid.search(input.value).draw();
    });
    const read = () => { input.value = chosen(key)[0] ?? ""; grid.search(input.value).draw(); };
    return { element: input, read };
  };

  const sorting = (grid, key, heads) => {
    let reading = false;
    grid.on("order", () => {
      if (reading) return;
      choose(key, grid.order().filter(([, way]) => way).map(([place, way]) => `${heads[place].dataset.key}.${way}`));
    });
    return () => {
      const wanted = chosen(key).map((one) => one.split(/\.(?=(?:asc|desc)$)/)).map(([name, way]) => [heads.findIndex((head) => head.dataset.key === name), way]);
      reading = true;
      grid.order(wanted.filter(([place, way]) => place >= 0 && way)).draw();
      reading = false;
    };
  };

  const equip = (box, grid, heads) => {
    const name = box.dataset.searchable;
    const status = make("span", { className: "shown" });
    status.setAttribute("role", "status");
    const said = (text) => { status.textContent = text; };
    const count = () => {
      const [some, every] = [grid.rows({ search: "applied" }).count(), grid.rows().count()];
      said(some === every ? `${every} rows` : `${some} of ${every} rows`);
    };
    const titles = box.dataset.filters ? box.dataset.filters.split("|") : [];
    const find = finder(grid, `${name}.find`);
    const filters = titles.map((title, place) => filter(grid, name, `${name}.${title.toLowerCase()}`, title, place));
    const columns = picker(grid, `${name}.columns`, heads);
    const sort = sorting(grid, `${name}.sort`, heads);
    const save = saver(grid, name, said);
    const bar = make("div", { className: "tools" }, find.element, ...filters.map(({ element }) => element), columns.element, save.element, status);
    box.prepend(bar);
    grid.on("draw", count);
    // First the order, since every drawing of the table writes the order that it has into the address.
    follow(() => { sort(); [find, ...filters, columns].forEach(({ read }) => read()); count(); });
  };

  document.addEventListener("DOMContentLoaded", () => {
    window.DataTable.ext.type.order["measured-asc"] = ordered(1);
    window.DataTable.ext.type.order["measured-desc"] = ordered(-1);
    document.querySelectorAll(".table.sortable").forEach(sortable);
    const close = (event) => document.querySelectorAll("details.menu[open]").forEach((one) => {
      if (!one.contains(event.target)) one.open = false;
    });
    document.addEventListener("click", close);
    document.addEventListener("focusin", close);
  });
})();
