"use strict";
// Where the reader is, marked in the list of sections; what is folded opens when a link leads into it.
(() => {
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let home = target.closest("details"); home; home = home.parentElement.closest("details")) home.open = true;
    target.scrollIntoView({ block: "nearest" });
  };
  addEventListener("hashchange", open);
  open();
  const links = [...document.querySelectorAll("body > nav a")];
  const shown = new Set();
  const mark = (entries) => {
    for (const e of entries) shown[e.isIntersecting ? "add" : "delete"](e.target.id);
    const here = links.find((a) => shown.has(a.hash.slice(1)));
    if (!here) return;
    for (const a of links) a.removeAttribute("aria-current");
    here.setAttribute("aria-current", "location");
  };
  const watch = new IntersectionObserver(mark, { rootMargin: "-10% 0px -60% 0px" });
  for (const a of links) watch.observe(document.getElementById(a.hash.slice(1)));
})();
