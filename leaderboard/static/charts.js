// Charts are data in the page; their colours come from the style sheet, so that they follow the theme.
(() => {
  "use strict";
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

  const draw = (box) => {
    const figure = themed(JSON.parse(box.querySelector("script").textContent));
    const place = box.querySelector(".plot") ?? box.appendChild(Object.assign(document.createElement("div"), { className: "plot" }));
    window.Plotly.react(place, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
    if (!box.dataset.drawn) listen(place);
    box.dataset.drawn = "yes";
  };

  document.addEventListener("DOMContentLoaded", () => {
    probe.hidden = true;
    document.body.append(probe);
    const boxes = [...document.querySelectorAll("figure.chart")];
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        seen.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "400px" });
    boxes.forEach((box) => seen.observe(box));
    window.addEventListener("beforeprint", () => boxes.filter((box) => !box.dataset.drawn && box.offsetParent).forEach(draw));
    document.addEventListener("themechange", () => boxes.filter((box) => box.dataset.drawn).forEach(draw));
  });
})();
