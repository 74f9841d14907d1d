// Panels of which one is shown at a time, and buttons that copy. Without scripts all panels stand below each other.
(() => {
  "use strict";
  const { chosen, choose, follow } = window.npasbench;

  const choosing = (box) => {
    const panels = [...box.children];
    if (panels.length < 2) return;
    const key = `${box.dataset.name}.panel`;
    const group = Object.assign(document.createElement("div"), { className: "choice", role: "group" });
    group.setAttribute("aria-label", box.dataset.label);
    const buttons = panels.map((panel) => Object.assign(document.createElement("button"), { type: "button", textContent: panel.dataset.title }));
    const usual = panels.find((panel) => "opened" in panel.dataset) ?? panels[0];
    const open = (wanted) => panels.forEach((panel, index) => {
      panel.hidden = panel !== wanted;
      buttons[index].setAttribute("aria-pressed", String(panel === wanted));
    });
    buttons.forEach((button, index) => button.addEventListener("click", () => {
      open(panels[index]);
      choose(key, panels[index] === usual ? [] : [panels[index].dataset.title]);
    }));
    group.append(`${box.dataset.label} `, ...buttons);
    box.before(group);
    follow(() => open(panels.find((panel) => panel.dataset.title === chosen(key)[0]) ?? usual));
  };

  const copying = (button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  };

  const saving = (button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      window.npasbench.exports.save(button.dataset.file, button.parentElement.querySelector("code").textContent, "text/plain");
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".panels").forEach(choosing);
    if (navigator.clipboard) document.querySelectorAll("button.copy").forEach(copying);
    if (window.npasbench.exports) document.querySelectorAll("button.save").forEach(saving);
  });
})();
