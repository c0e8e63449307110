"use strict";
(() => {
  const held = document.getElementById("data");
  const form = document.getElementById("filter");
  if (!held || !form) return;
  const data = JSON.parse(held.textContent);
  const text = (number) => data.texts[number];
  const CHUNK = 100; // items of a comparison drawn at once
  const LONGEST_DIFF = 1200; // words beyond which only the ends two texts share are left unmarked

  const make = (tag, words, name) => {
    const made = document.createElement(tag);
    if (words !== undefined) made.textContent = words;
    if (name) made.className = name;
    return made;
  };
  const SIDE = ["condition", "before", "after", "prompt", "plan", "planNotes", "text", "verdict", "answer", "outcome", "notes"];
  const side = (number) => {
    const raw = data.sides[number];
    const found = Object.fromEntries(SIDE.map((key, i) => [key, Array.isArray(raw[i]) ? raw[i].map(text) : text(raw[i])]));
    found.votes = raw[SIDE.length].map(([answer, verdict, count]) => [text(answer), text(verdict), count]);
    return found;
  };
  const flips = data.pairs.map((records) => records.map((r) => ({
    record: r, item: text(r[0]), way: text(r[1]), flags: text(r[2]).split(" ").filter(Boolean), searched: null,
  })));

  // ------------------------------------------------------------ differences
  // [words of a, words of b] with true where a word is not in the other text, by longest common subsequence.
  const compared = (a, b) => {
    const [left, right] = [a, b].map((t) => t.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) || []);
    let head = 0;
    while (head < left.length && head < right.length && left[head] === right[head]) head += 1;
    let tail = 0;
    while (tail < left.length - head && tail < right.length - head && left.at(-1 - tail) === right.at(-1 - tail)) tail += 1;
    const [x, y] = [left, right].map((w) => w.slice(head, w.length - tail));
    const kept = [x.map(() => false), y.map(() => false)];
    if (x.length <= LONGEST_DIFF && y.length <= LONGEST_DIFF) {
      const width = y.length + 1;
      const best = new Uint16Array((x.length + 1) * width);
      for (let i = x.length - 1; i >= 0; i -= 1) {
        for (let j = y.length - 1; j >= 0; j -= 1) {
          best[i * width + j] = x[i] === y[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
        }
      }
      for (let i = 0, j = 0; i < x.length && j < y.length;) {
        if (x[i] === y[j]) { kept[0][i] = kept[1][j] = true; i += 1; j += 1; }
        else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i += 1;
        else j += 1;
      }
    }
    return [left, right].map((words, k) => words.map((word, i) => [word, i >= head && i < words.length - tail && !kept[k][i - head]]));
  };
  const marked = (home, words, name) => {
    let run = null;
    for (const [word, differs] of words) {
      if (!run || run.differs !== differs) {
        run = { differs, node: differs ? make("mark", "", name) : document.createTextNode("") };
        home.append(run.node);
      }
      run.node.textContent += word;
    }
    return home;
  };
  const pairOf = (a, b) => (a && b ? compared(a, b) : [[[a, false]], [[b, false]]]);

  // ------------------------------------------------------------ one item
  const promptOf = (s, before, after, whole, name) => {
    const shown = make("pre");
    if (s.prompt) return marked(shown, whole, name);
    const part = (words) => marked(make("mark", "", "put"), words, name);
    if (s.before) shown.append(part(before), "\n");
    shown.append(make("span", "[question]", "quiet"));
    if (s.after) shown.append("\n\n", part(after));
    return shown;
  };
  const labelled = (words) => make("p", words, "label");
  const column = (s, shown, name) => {
    const home = make("div", undefined, "side");
    home.append(make("h3", s.condition), labelled("Prompt"), promptOf(s, shown.before, shown.after, shown.prompt, name));
    if (s.planNotes.length) home.append(labelled(`Plan: ${s.planNotes.join(", ")}`));
    if (s.plan) home.append(marked(make("pre"), shown.plan, name));
    home.append(labelled(s.votes.length ? "Completion, the first that gave the winning answer" : "Completion"));
    home.append(s.text ? marked(make("pre"), shown.text, name) : make("pre", "[empty]"));
    home.append(labelled("Grade"), make("span", s.verdict, s.verdict));
    if (s.answer) home.append(", answer ", make("b", s.answer));
    home.append(" ", make("span", `(${s.notes.join(", ")})`, "quiet"));
    if (s.votes.length) {
      home.append(labelled("Votes"));
      s.votes.forEach(([answer, verdict, count], i) => home.append(i ? ", " : "", make("span", answer || "unreadable", verdict), ` \u00d7 ${count}`));
    }
    return home;
  };
  const fill = (home, flip) => {
    const [old, now] = [side(flip.record[5]), side(flip.record[6])];
    const parts = [{}, {}];
    for (const key of ["before", "after", "prompt", "plan", "text"]) {
      pairOf(old[key], now[key]).forEach((words, k) => { parts[k][key] = words; });
    }
    const sides = make("div", undefined, "sides");
    sides.append(column(old, parts[0], "old"), column(now, parts[1], "new"));
    home.append(labelled("Question"), make("pre", text(flip.record[3]), "prose"), sides);
  };
  const entry = (flip) => {
    const home = make("details", undefined, `flip ${flip.way}`);
    const head = make("summary");
    const [old, now] = [side(flip.record[5]), side(flip.record[6])];
    const gold = text(flip.record[4]);
    head.append(make("span", flip.way === "same" ? "same" : flip.way, "way"), make("span", flip.item, "name"));
    head.append(make("span", `${old.outcome} \u2192 ${now.outcome}${gold ? `, expected ${gold}` : ""}`, "shown"));
    for (const flag of flip.flags) head.append(make("span", flag, "flag"));
    home.append(head);
    home.addEventListener("toggle", () => home.open && home.childElementCount === 1 && fill(home, flip));
    return home;
  };

  // ------------------------------------------------------------ lists and filters
  const views = [...document.querySelectorAll("details.pair")].map((home, place) => ({ home, flips: flips[place], kept: [], stale: true }));
  const searched = (flip) => {
    flip.searched ??= [text(flip.record[0]), text(flip.record[3]), ...[5, 6].flatMap((k) => {
      const s = side(flip.record[k]);
      return [s.before, s.after, s.prompt, s.plan, s.text, s.outcome];
    })].join("\n").toLowerCase();
    return flip.searched;
  };
  const more = (view, from) => {
    const button = view.home.querySelector("button.more");
    if (button) button.remove();
    for (const flip of view.kept.slice(from, from + CHUNK)) view.home.append(entry(flip));
    const left = view.kept.length - from - CHUNK;
    if (left <= 0) return;
    const next = make("button", `Show ${Math.min(left, CHUNK)} more of ${left}`, "more");
    next.type = "button";
    next.addEventListener("click", () => more(view, from + CHUNK));
    view.home.append(next);
  };
  const list = (view) => {
    if (!view.home.open || !view.stale) return;
    while (view.home.childElementCount > 1) view.home.lastElementChild.remove(); // the summary stays: it may have the focus
    more(view, 0);
    view.stale = false;
  };
  const apply = () => {
    const { comparison, direction, flag, words } = form.elements;
    const wanted = words.value.trim().toLowerCase();
    const ways = { flipped: ["gained", "lost"], "": ["gained", "lost", "same"] }[direction.value] || [direction.value];
    const narrowed = comparison.value || flag.value || wanted || direction.value !== "flipped";
    let shown = 0;
    views.forEach((view, place) => {
      const chosen = !comparison.value || Number(comparison.value) === place;
      view.kept = !chosen ? [] : view.flips.filter((f) => ways.includes(f.way) && (!flag.value || f.flags.includes(flag.value)) && (!wanted || searched(f).includes(wanted)));
      view.stale = true;
      view.home.hidden = !chosen || Boolean(narrowed && !view.kept.length && !comparison.value);
      if (chosen && (comparison.value || wanted)) view.home.open = view.kept.length > 0;
      shown += view.kept.length;
      list(view);
    });
    form.elements.count.value = `${shown} shown`;
  };
  for (const view of views) view.home.addEventListener("toggle", () => list(view));
  let waiting = 0;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(apply, 120); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
