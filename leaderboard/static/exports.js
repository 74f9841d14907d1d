// What a table shows as CSV, JSON or LaTeX: rows and columns as they stand, numbers in full precision, without any request.
(() => {
  "use strict";
  const clean = (text) => text.replace(/\s+/g, " ").trim();
  const words = (cell) => clean(cell.querySelector(".value")?.textContent ?? cell.textContent);

  /** A cell as it is written: its full number where it has one, and half of its interval. */
  const read = (cell, isWords) => {
    const { order = "", half = "" } = cell.dataset;
    const shown = words(cell);
    const value = !isWords && order !== "" && Number.isFinite(Number(order)) ? Number(order) : shown === "–" ? "" : shown;
    return { value, half: half === "" ? null : Number(half), shown };
  };

  const shown = (grid) => {
    const places = grid.columns().indexes().toArray().filter((place) => grid.column(place).visible());
    const columns = places.map((place) => {
      const head = grid.column(place).header();
      return { place, key: head.dataset.key, isWords: head.classList.contains("words"), title: head.dataset.name, unit: head.dataset.units };
    });
    const nodes = grid.rows({ search: "applied", order: "applied" }).indexes().toArray();
    const rows = nodes.map((row) => columns.map(({ place, isWords }) => read(grid.cell(row, place).node(), isWords)));
    columns.forEach((column, at) => { column.halves = rows.some((row) => row[at].half !== null); });
    return { columns, rows };
  };

  const flat = ({ columns, rows }) => ({
    keys: columns.flatMap(({ key, halves }) => (halves ? [key, `${key}_half`] : [key])),
    lines: rows.map((row) => row.flatMap(({ value, half }, at) => (columns[at].halves ? [value, half ?? ""] : [value]))),
  });

  const csvField = (value) => {
    if (typeof value === "number") return String(value);
    const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = (table) => {
    const { keys, lines } = flat(table);
    return [keys, ...lines].map((line) => line.map(csvField).join(",")).join("\n") + "\n";
  };

  const json = (table) => {
    const { keys, lines } = flat(table);
    const objects = lines.map((line) => Object.fromEntries(keys.map((key, at) => [key, line[at] === "" ? null : line[at]])));
    return JSON.stringify(objects, null, 1) + "\n";
  };

  const SPECIAL = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "×": "$\\times$", "−": "$-$", "±": "$\\pm$", "–": "--", "▲": "$\\uparrow$", "▼": "$\\downarrow$", "∞": "$\\infty$", "µ": "$\\mu$",
  };
  const tex = (text) => clean(text).replace(/[\\{}$&#%_~^<>×−±–▲▼∞µ]/g, (sign) => SPECIAL[sign]);
  const latex = (table, caption, grid) => {
    const { columns } = table;
    const nodes = grid.rows({ search: "applied", order: "applied" }).indexes().toArray();
    const cell = (row, { place }) => {
      const node = grid.cell(row, place).node();
      const spread = node.querySelector(".spread")?.textContent ?? "";
      const text = tex(`${words(node).replace(spread.trim(), "")} ${spread}`);
      return node.classList.contains("leader") ? `\\textbf{${text}}` : text;
    };
    const head = columns.map(({ title, unit }) => tex(unit ? `${title} (${unit})` : title)).join(" & ");
    return [
      "% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering", `\\caption{${tex(caption)}}`,
      `\\begin{tabular}{${columns.map(({ isWords }, at) => (isWords || !at ? "l" : "r")).join("")}}`,
      "\\toprule", `${head} \\\\`, "\\midrule",
      ...nodes.map((row) => `${columns.map((column) => cell(row, column)).join(" & ")} \\\\`),
      "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
    ].join("\n");
  };

  const save = (name, text, type) => {
    const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    const link = Object.assign(document.createElement("a"), { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  };

  window.npasbench.exports = {
    formats: {
      CSV: { ending: "csv", type: "text/csv", write: (grid) => csv(shown(grid)) },
      JSON: { ending: "json", type: "application/json", write: (grid) => json(shown(grid)) },
      LaTeX: { ending: "tex", type: "application/x-tex", write: (grid, caption) => latex(shown(grid), caption, grid) },
    },
    save,
  };
})();
