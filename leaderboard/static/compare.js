// Any two entries of a task, from the scores in the page: differences seed by seed, with their intervals. Which is higher was
// decided when the page was made, for all pairs together.
(() => {
  "use strict";
  const { chosen, choose, follow } = window.npasbench;
  const make = (tag, given = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), given);
    element.append(...inside);
    return element;
  };
  const MARKS = { higher: "▲ ", lower: "▼ ", tie: "= ", "too few": "? ", "": "" };
  const SAID = {
    higher: "higher", lower: "lower", tie: "a tie: they cannot be told apart", "too few": "too few seeds to tell",
    "": "not decided: one of them does not rank here",
  };
  const OTHER_WAY = { higher: "lower", lower: "higher" };
  const minus = (text) => text.replace("-", "−");
  const fixed = (value, digits) => (Number.isFinite(value)
    ? minus(value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })) : "NaN");
  const signed = (value) => `${value > 0 ? "+" : ""}${fixed(100 * value, 2)}`;

  const begin = (section) => {
    const data = JSON.parse(section.querySelector("script").textContent);
    const { entries, budgets, costs, quantiles } = data;

    const interval = (values) => {
      const n = values.length;
      const mean = values.reduce((sum, value) => sum + value, 0) / n;
      const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
      return { n, mean, half: n > 1 ? (quantiles[n] * Math.sqrt(squares / (n - 1))) / Math.sqrt(n) : NaN };
    };
    const score = (value) => (value === null ? NaN : value);
    const own = (cell) => (cell.scores ? interval(Object.values(cell.scores).map(score)) : null);
    // A clean result is never compared with a trial one.
    const gap = (a, b) => {
      if (!a.scores || !b.scores || (a.kind === "trial") !== (b.kind === "trial")) return null;
      const common = Object.keys(a.scores).filter((seed) => seed in b.scores);
      return common.length ? interval(common.map((seed) => score(a.scores[seed]) - score(b.scores[seed]))) : null;
    };
    // What the task's page decides, from the first entry's side; nothing for a pair of which one does not rank.
    const decided = (a, b, at) => {
      const [one, other] = [entries.indexOf(a), entries.indexOf(b)];
      const { pairs, families } = budgets[at].decided;
      const [verdict = "", p = "", family = 0] = pairs[`${Math.min(one, other)} ${Math.max(one, other)}`] ?? [];
      return { verdict: one < other ? verdict : OTHER_WAY[verdict] ?? verdict, p, family: families[family] };
    };

    const spread = (half, write) => (Number.isFinite(half) ? [" ", make("span", { className: "spread", textContent: `± ${write(half)}` })] : []);
    const percent = (value) => fixed(100 * value, 2);
    const ownCell = (cell) => {
      const found = own(cell);
      if (!found) return make("td", { className: "empty", title: cell.reason ?? "" }, make("span", { className: "value", textContent: cell.kind === "missing" ? "not run" : cell.kind }));
      const note = cell.kind === "measured" ? [] : [make("span", { className: "small", textContent: cell.kind === "trial" ? "trial" : "over budget" })];
      return make("td", {}, percent(found.mean), ...spread(found.half, percent), ...note);
    };
    const gapCells = (found, { verdict, p, family }) => {
      if (!found) return [make("td", { textContent: "" }), make("td"), make("td", { className: "words" })];
      const tested = p && verdict !== "too few" ? [make("span", { className: "small", textContent: `p ${p}, corrected for ${family}` })] : [];
      return [
        make("td", { className: verdict.replace(" ", "-") || "quiet" }, `${MARKS[verdict]}${signed(found.mean)}`, ...spread(found.half, percent)),
        make("td", { textContent: found.n }),
        make("td", { className: "words" }, SAID[verdict], ...tested),
      ];
    };
    const head = (...titles) => {
      const cells = titles.map((title) => {
        const [text, unit = ""] = [title].flat();
        const cell = make("th", { scope: "col" }, text, ...(unit ? [make("small", { textContent: unit })] : []));
        return cell;
      });
      return make("thead", {}, make("tr", {}, ...cells));
    };
    const row = (budget, ...cells) => make("tr", {}, make("th", { scope: "row", textContent: budget.text }), ...cells);

    const showPairs = (a, b) => {
      const rows = budgets.map((budget, at) => row(budget, ownCell(a.cells[at]), ownCell(b.cells[at]), ...gapCells(a === b ? null : gap(a.cells[at], b.cells[at]), decided(a, b, at))));
      const titles = head("Budget", [a.title, "%"], [b.title, "%"], ["Difference", "points, uncorrected 95 %"], ["n", "common seeds"], ["The first is", "by corrected tests"]);
      titles.querySelector("th:last-child").className = "words";
      section.querySelector("table.pairs").replaceChildren(titles, make("tbody", {}, ...rows));
    };
    const showPrices = (a, b) => {
      const priced = (cell, at) => cell.costs?.[at] ?? null;
      const price = (value, { digits, scale }) => make("td", { textContent: value === null ? "–" : fixed(value * scale, digits) });
      const ratio = (x, y) => make("td", { className: "quiet", textContent: x === null || !y ? "–" : `${fixed(x / y, 2)}×` });
      const rows = budgets.map((budget, at) => row(budget, ...costs.flatMap((cost, place) => {
        const [x, y] = [priced(a.cells[at], place), priced(b.cells[at], place)];
        return [price(x, cost), price(y, cost), ratio(x, y)];
      })));
      const titles = costs.flatMap(({ title, unit }) => [[`${title}, ${a.title}`, unit], [`${title}, ${b.title}`, unit], ["Ratio", title]]);
      section.querySelector("table.prices").replaceChildren(head("Budget", ...titles), make("tbody", {}, ...rows));
    };
    const showExamples = (a, b) => {
      const [one, other] = [a, b].map((entry) => String(entries.indexOf(entry)));
      const rows = budgets.flatMap((budget, at) => {
        const [mine, theirs] = [a.cells[at].examples?.[other], b.cells[at].examples?.[one]];
        const counts = mine ?? (theirs && [theirs[0], theirs[2], theirs[1], theirs[3]]);
        if (!counts) return [];
        const all = counts.reduce((sum, count) => sum + count, 0);
        return [row(budget, ...counts.map((count) => make("td", { textContent: fixed((100 * count) / all, 2), title: fixed(count, 0) })))];
      });
      section.querySelector(".shared").hidden = !rows.length;
      const titles = head("Budget", ["Both right", "%"], [`Only ${a.title}`, "%"], [`Only ${b.title}`, "%"], ["Neither", "%"]);
      section.querySelector("table.examples").replaceChildren(titles, make("tbody", {}, ...rows));
    };
    const showChart = (a, b) => {
      const found = budgets.flatMap(({ fraction, text }, at) => {
        const one = fraction ? gap(a.cells[at], b.cells[at]) : null;
        return one && Number.isFinite(one.mean) ? [{ fraction, text, ...one }] : [];
      });
      const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
      const short = (text) => safe(text.length > 32 ? `${text.slice(0, 31)}…` : text);
      const places = budgets.filter(({ fraction }) => fraction);
      const figure = {
        data: [{
          type: "scatter", mode: "markers+lines", x: found.map(({ fraction }) => fraction), y: found.map(({ mean }) => 100 * mean),
          error_y: { array: found.map(({ half }) => (Number.isFinite(half) ? 100 * half : 0)), thickness: 1.5 },
          line: { width: 1, dash: "dot" }, marker: { size: 9 }, meta: { colour: a.colour }, hovertemplate: "%{text}<extra></extra>",
          text: found.map(({ text, mean, half, n }) => `${safe(text)}: ${signed(mean)}${Number.isFinite(half) ? ` ± ${percent(half)}` : ""}, n ${n}`),
        }],
        layout: {
          height: 320, showlegend: false,
          xaxis: { ...data.axis, type: "log", title: { text: "parameter budget" }, tickvals: places.map(({ fraction }) => fraction), ticktext: places.map(({ text }) => safe(text)) },
          yaxis: { ...data.axis, zeroline: true, title: { text: `${short(a.title)} − ${short(b.title)} (points)` } },
        },
      };
      section.querySelector("figure script").textContent = JSON.stringify(figure);
      document.dispatchEvent(new Event("figurechange"));
    };

    const chooser = (text, key, usual) => {
      const select = make("select", {}, ...entries.map(({ title }, at) => make("option", { value: String(at), textContent: title })));
      const read = () => {
        const at = entries.findIndex(({ title }) => title === chosen(key)[0]);
        select.value = String(at < 0 ? usual : at);
      };
      return { select, key, read, usual, label: make("label", {}, `${text} `, select), entry: () => entries[Number(select.value)] };
    };
    const choosers = [chooser("First", "pair.first", data.first[0]), chooser("Second", "pair.second", data.first[1])];
    const show = () => {
      const [a, b] = choosers.map(({ entry }) => entry());
      showPairs(a, b);
      showPrices(a, b);
      showExamples(a, b);
      showChart(a, b);
    };
    const changed = () => {
      for (const { key, usual, select, entry } of choosers) choose(key, Number(select.value) === usual ? [] : [entry().title]);
      show();
    };
    choosers.forEach(({ select }) => select.addEventListener("change", changed));
    const swap = make("button", { type: "button", textContent: "Swap" });
    swap.addEventListener("click", () => {
      const [a, b] = choosers.map(({ select }) => select);
      [a.value, b.value] = [b.value, a.value];
      changed();
    });
    section.querySelector(".choosers").append(choosers[0].label, swap, choosers[1].label);
    section.hidden = false;
    follow(() => { choosers.forEach(({ read }) => read()); show(); });
  };

  document.addEventListener("DOMContentLoaded", () => {
    const section = document.getElementById("pair");
    if (section) begin(section);
  });
})();
