// Runs before anything is painted, so that a chosen theme does not flash.
(() => {
  "use strict";
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("npasbench-theme"); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem("npasbench-theme", theme); } catch { /* private window */ } };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => {
    root.dataset.theme = theme;
    root.classList.toggle("dark", theme === "dark");
    document.dispatchEvent(new Event("themechange"));
  };
  const chosen = () => (["light", "dark"].includes(stored()) ? stored() : dark.matches ? "dark" : "light");
  apply(chosen());
  dark.addEventListener("change", () => apply(chosen()));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = root.dataset.theme === "dark" ? "light" : "dark";
      store(next);
      apply(next);
    });
  });
})();
