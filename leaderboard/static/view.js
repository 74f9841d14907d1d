// What a reader chose on a page stands in its address, behind the "?" of its fragment, so that a link shows the same again.
(() => {
  "use strict";
  const split = () => {
    const [anchor, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
    return { anchor, chosen: new URLSearchParams(query) };
  };
  let { anchor, chosen } = split();
  const readers = [];

  const write = () => {
    const query = chosen.toString();
    const hash = query ? `#${anchor}?${query}` : anchor ? `#${anchor}` : "";
    history.replaceState(history.state, "", `${location.pathname}${location.search}${hash}`);
  };

  window.npasbench = {
    /** Every value that stands for a key. */
    chosen: (key) => chosen.getAll(key),
    /** Put values in place of what stands for a key; none take it away. */
    choose: (key, values) => {
      chosen.delete(key);
      for (const value of values) chosen.append(key, value);
      write();
    },
    /** Read the address now and whenever another one is opened on this page. */
    follow: (read) => { readers.push(read); read(); },
  };

  addEventListener("hashchange", () => {
    const now = split();
    // A plain link within the page keeps what was chosen.
    anchor = now.anchor;
    if (![...now.chosen].length) { write(); return; }
    chosen = now.chosen;
    readers.forEach((read) => read());
    document.getElementById(anchor)?.scrollIntoView();
  });
  // A fragment with a "?" names no element by itself.
  addEventListener("load", () => { if ([...chosen].length) document.getElementById(anchor)?.scrollIntoView(); });
})();
