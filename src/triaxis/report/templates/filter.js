"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const pairs = [...document.querySelectorAll("details.pair")].map((pair) => ({
    pair,
    flips: [...pair.querySelectorAll("details.flip")].map((flip) => ({ flip, text: null })),
  }));
  const holds = (entry, words) => {
    if (!words) return true;
    entry.text ??= entry.flip.textContent.toLowerCase();
    return entry.text.includes(words);
  };
  const apply = () => {
    const { comparison, direction, words } = form.elements;
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const { pair, flips } of pairs) {
      const chosen = !comparison.value || pair.id === comparison.value;
      let here = 0;
      for (const entry of flips) {
        const kept = chosen && (!direction.value || entry.flip.dataset.way === direction.value) && holds(entry, wanted);
        entry.flip.hidden = !kept;
        here += kept;
      }
      const filtered = comparison.value || direction.value || wanted;
      pair.hidden = !chosen || (filtered && !here && pair.id !== comparison.value);
      if (chosen && (comparison.value || wanted)) pair.open = here > 0;
      shown += here;
    }
    form.elements.count.value = `${shown} shown`;
  };
  let waiting = 0;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(apply, 120); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
