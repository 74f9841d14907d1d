// Charts are data in the page; their colours come from the style sheet, so that they follow the theme.
(() => {
  "use strict";
  // plotly is heavy: it is read once the page has been shown, and by then only waited for where a chart is in view.
  const heavy = new URL("plotly.min.js", document.currentScript.src).href;
  let reading = null;
  const plotly = () => {
    reading ??= window.Plotly ? Promise.resolve() : new Promise((done, failed) => {
      document.head.append(Object.assign(document.createElement("script"), { src: heavy, onload: done, onerror: failed }));
    });
    return reading;
  };
  // While the tables are made sortable it is read already.
  requestAnimationFrame(() => setTimeout(plotly));

  const probe = document.createElement("i");
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const faint = (rgb, strength) => {
    const [r, g, b] = rgb.match(/[\d.]+/g);
    return `rgba(${r}, ${g}, ${b}, ${strength})`;
  };
  const axis = (given) => given && { ...given, gridcolor: colour("--line"), linecolor: colour("--line"), tickcolor: colour("--line"), zerolinecolor: colour("--muted") };

  const themed = ({ data, layout }) => ({
    data: data.map((trace) => {
      const own = colour(trace.meta.colour);
      return trace.fill
        ? { ...trace, fillcolor: faint(own, 0.08) }
        : { ...trace, line: { ...trace.line, color: own }, marker: { ...trace.marker, color: own } };
    }),
    layout: {
      ...layout,
      shapes: (layout.shapes ?? []).map((shape) => ({ ...shape, line: { ...shape.line, color: colour("--muted") } })),
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      ...(layout.yaxis2 ? { yaxis2: axis(layout.yaxis2) } : {}),
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--muted") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 56, r: 16, t: 16, b: 48 },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    },
  });

  // The band of the curve under the pointer stands out from the others.
  const shade = (place, group, strength) => {
    const bands = place.data.flatMap((trace, index) => (trace.fill && trace.legendgroup === group ? [index] : []));
    if (bands.length) window.Plotly.restyle(place, { fillcolor: faint(colour(place.data[bands[0]].meta.colour), strength) }, bands);
  };
  const listen = (place) => {
    place.on("plotly_hover", ({ points }) => shade(place, points[0].data.legendgroup, 0.28));
    place.on("plotly_unhover", ({ points }) => shade(place, points[0].data.legendgroup, 0.08));
  };

  // The width and theme that a chart was drawn for; one whose entry is missing is drawn when it comes into view.
  const drawn = new WeakMap();
  const shown = (box) => box.offsetParent !== null;

  const draw = async (box) => {
    drawn.set(box, box.clientWidth);
    await plotly();
    paint(box);
  };

  const paint = (box) => {
    const given = JSON.parse(box.querySelector("script").textContent);
    if (!given || !shown(box)) {
      drawn.delete(box);
      return;
    }
    // Names beside marks need more room than a phone has; the table below the chart has them too.
    if (box.clientWidth < 560) given.data = given.data.filter(({ mode }) => !mode.includes("text"));
    const figure = themed(given);
    const found = box.querySelector(".plot");
    const place = found ?? box.appendChild(Object.assign(document.createElement("div"), { className: "plot" }));
    window.Plotly.react(place, figure.data, figure.layout, { displaylogo: false, displayModeBar: false });
    if (!found) listen(place);
  };

  document.addEventListener("DOMContentLoaded", () => {
    probe.hidden = true;
    document.body.append(probe);
    const boxes = [...document.querySelectorAll("figure.chart")];
    // A panel may have been closed since the browser saw a chart in it; one that is drawn unseen has no width.
    const inView = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting && shown(target) && !drawn.has(target)) draw(target);
      }
    }, { rootMargin: "400px" });
    const sized = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const place = target.querySelector(".plot");
        if (place && shown(target) && drawn.has(target) && drawn.get(target) !== target.clientWidth) {
          drawn.set(target, target.clientWidth);
          window.Plotly.Plots.resize(place);
        }
      }
    });
    for (const box of boxes) {
      inView.observe(box);
      sized.observe(box);
    }
    // Paper is light, whatever the screen is, and shows the charts that were not in view yet too.
    const printing = (yes) => {
      document.documentElement.toggleAttribute("data-printing", yes);
      for (const box of boxes.filter(shown)) {
        box.querySelector(".late")?.remove();
        if (window.Plotly) {
          drawn.set(box, box.clientWidth);
          paint(box);
        } else if (yes) {
          box.append(Object.assign(document.createElement("p"), { className: "under late", textContent: "This chart was not drawn yet. Print the page once more." }));
        }
      }
    };
    window.addEventListener("beforeprint", () => printing(true));
    window.addEventListener("afterprint", () => printing(false));
    const again = () => boxes.forEach((box) => {
      drawn.delete(box);
      inView.unobserve(box);
      inView.observe(box);
    });
    document.addEventListener("themechange", again);
    document.addEventListener("figurechange", again);
  });
})();
