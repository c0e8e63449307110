"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const share = (p) => p.toFixed(p > 0.9995 && p < 1 ? 6 : 3);
  const last = Math.max(...data.traces.map((t) => t.steps.length));

  const views = data.traces.map((trace, number) => {
    const home = document.querySelectorAll("#canvas > .side")[number];
    const commits = trace.ids.map(() => null);
    trace.steps.forEach((s, step) => s.c.forEach(([place, id, chance, entropy, others]) => {
      commits[place] = { step, id, chance, entropy, others, adapters: s.a };
    }));
    const entropies = commits.filter(Boolean).map((c) => c.entropy);
    return { trace, home, commits, most: Math.max(1e-9, ...entropies), tokens: [], picked: -1 };
  });

  // 0..1, more is more colour; null: none
  const COLOURS = {
    chance: { of: (c) => c.chance, key: "Fuller colour: surer when it was committed." },
    step: { of: (c, view) => 1 - c.step / Math.max(1, view.trace.steps.length - 1), key: "Fuller colour: committed earlier." },
    entropy: { of: (c, view) => c.entropy / view.most, key: "Fuller colour: more entropy when it was committed." },
    none: { of: () => null, key: "" },
  };

  const text = (view, id) => view.trace.texts[id] ?? `#${id}`;
  const pinned = (view, place) => {
    view.picked = place;
    tell(view);
  };
  for (const view of views) {
    const canvas = view.home.querySelector(".canvas");
    canvas.replaceChildren();
    view.trace.ids.forEach((_, place) => {
      if (place && place % view.trace.block === 0) canvas.append(make("span", "", "edge"));
      const token = make("button", "", "token");
      token.type = "button";
      token.addEventListener("mouseenter", () => pinned(view, place));
      token.addEventListener("focus", () => pinned(view, place));
      if (data.apart && data.apart.place === place) token.classList.add("apart");
      canvas.append(token);
      view.tokens.push(token);
    });
  }

  let now = last;
  const standing = (view, place) => { // what is seen at a position after `now` steps
    const commit = view.commits[place];
    if (commit && commit.step < now) return { commit };
    const seen = now > 0 && view.trace.steps[Math.min(now, view.trace.steps.length) - 1].l.find((g) => g[0] === place);
    return { guess: seen || null };
  };
  const tell = (view) => {
    const told = view.home.querySelector(".told");
    told.replaceChildren();
    if (view.picked < 0) {
      told.textContent = "Point at a token to see its probability and what else was likely.";
      return;
    }
    const { commit, guess } = standing(view, view.picked);
    const name = make("b", commit ? text(view, commit.id) : guess ? text(view, guess[1]) : "hidden");
    told.append(`Position ${view.picked}: `, name);
    if (commit) {
      told.append(` at step ${commit.step}, probability ${share(commit.chance)}, entropy ${commit.entropy.toFixed(3)}; likeliest: `);
      told.append(commit.others.map(([id, p]) => `${text(view, id)} ${share(p)}`).join(", "));
      if (commit.adapters.length) told.append(`; adapters ${commit.adapters.join(", ")}`);
    } else if (guess) told.append(` wanted, probability ${share(guess[2])}, entropy ${guess[3].toFixed(3)}`);
  };
  const draw = () => {
    const colour = COLOURS[byId("colour").value];
    byId("now").value = `${now} of ${last}`;
    byId("step").value = String(now);
    byId("key").textContent = colour.key;
    for (const view of views) {
      view.tokens.forEach((token, place) => {
        const { commit, guess } = standing(view, place);
        const strength = commit ? colour.of(commit, view) : null;
        token.textContent = commit ? text(view, commit.id) : guess ? text(view, guess[1]) : "\u00a0";
        token.classList.toggle("hiddenyet", !commit);
        token.classList.toggle("fresh", Boolean(commit) && commit.step === now - 1 && now < last);
        token.style.background = strength === null ? "none" : `color-mix(in srgb, var(--same) ${Math.round(45 * strength)}%, transparent)`;
        token.setAttribute("aria-label", `position ${place}: ${commit ? token.textContent : "hidden"}`);
      });
      for (const dot of view.home.querySelectorAll(".order circle")) dot.setAttribute("opacity", Number(dot.dataset.step) < now ? dot.dataset.full : "0.08");
      tell(view);
    }
  };

  const SVG = "http://www.w3.org/2000/svg";
  const shape = (tag, attributes) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const label = (words, attributes) => {
    const made = shape("text", { "font-size": 11, fill: "var(--muted)", ...attributes });
    made.textContent = words;
    return made;
  };
  for (const view of views) {
    const [width, left, top] = [Math.max(300, Math.min(640, view.home.clientWidth)), 44, 8]; // letters keep their size
    const height = Math.min(320, 60 + 5 * last);
    const x = (place) => left + ((place + 0.5) * (width - left)) / view.trace.ids.length;
    const y = (step) => top + ((step + 0.5) * (height - top - 24)) / last;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Commit order of ${view.trace.label}` });
    const frame = shape("path", { d: `M${left} ${top}V${height - 24}H${width}`, fill: "none", stroke: "var(--line)" });
    svg.append(frame, label("0", { x: left - 12, y: y(0) + 4, "text-anchor": "end" }), label(last - 1, { x: left - 12, y: y(last - 1) + 4, "text-anchor": "end" }));
    svg.append(label("position", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }), label("step", { x: 0, y: height / 2 }));
    if (data.apart && data.apart.step !== null) {
      svg.append(shape("path", { d: `M${left} ${y(data.apart.step)}H${width}`, stroke: "var(--drop)", "stroke-dasharray": "4 3", class: "parting" }));
    }
    for (const step of new Set([view.trace.alarms.order_ties, view.trace.alarms.saturated, view.trace.alarms.token_ties].flat())) {
      svg.append(shape("path", { d: `M${left - 1} ${y(step)}l-7 -4v8z`, fill: "var(--second)", class: "alarm" }));
    }
    view.commits.forEach((c, place) => {
      if (!c) return;
      const dot = shape("circle", { cx: x(place), cy: y(c.step), r: 3, fill: "var(--same)" });
      dot.dataset.step = c.step;
      dot.dataset.full = String(0.25 + 0.75 * c.chance);
      svg.append(dot);
    });
    const figure = view.home.querySelector(".order");
    figure.prepend(svg);
    figure.hidden = false;
    const table = view.home.querySelector(".steps");
    table.hidden = false;
    table.addEventListener("toggle", () => table.open && table.childElementCount === 1 && fill(view, table));
  }
  const fill = (view, home) => {
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const name of ["step", "block", "adapters", "committed (position: token, probability)"]) head.append(make("th", name));
    const body = table.createTBody();
    view.trace.steps.forEach((s, step) => {
      const row = body.insertRow();
      const committed = s.c.map(([place, id, p]) => `${place}: ${text(view, id)} ${share(p)}`).join(", ");
      for (const cell of [step, s.b, s.a.join(", ") || "\u2013", committed]) row.append(make("td", cell));
    });
    const scroll = make("div", undefined, "scroll");
    scroll.append(table);
    home.append(scroll);
  };

  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-pressed", "false");
  };
  const go = (step) => {
    now = Math.min(last, Math.max(0, step));
    draw();
  };
  const run = () => {
    clearInterval(timer);
    timer = setInterval(() => (now < last ? go(now + 1) : stop()), 1000 / Number(byId("speed").value));
    byId("play").textContent = "Pause";
    byId("play").setAttribute("aria-pressed", "true");
  };
  const play = () => {
    if (timer) return stop();
    if (now >= last) go(0);
    run();
  };
  byId("play").addEventListener("click", play);
  byId("speed").addEventListener("change", () => timer && run());
  byId("colour").addEventListener("change", draw);
  byId("step").addEventListener("input", (event) => {
    stop();
    go(Number(event.target.value));
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, button, summary, a")) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in moves) {
      stop();
      go(now + moves[event.key]);
    } else if (event.key === " ") play();
    else return;
    event.preventDefault();
  });
  for (const view of views) { // each alarm leads to the first of its steps
    const kinds = [view.trace.alarms.order_ties, view.trace.alarms.saturated, view.trace.alarms.token_ties].filter((k) => k.length);
    view.home.querySelectorAll(".warnings li").forEach((line, k) => {
      const button = make("button", "Go there", "there");
      button.type = "button";
      button.setAttribute("aria-label", `Go to step ${kinds[k][0]}`);
      button.addEventListener("click", () => {
        stop();
        go(kinds[k][0] + 1);
      });
      line.append(" ", button);
    });
  }
  const jump = byId("jump");
  if (jump) {
    jump.hidden = false;
    jump.addEventListener("click", () => {
      stop();
      go(data.apart.step + 1);
      if (data.apart.place !== null) views[0].tokens[data.apart.place].focus();
    });
  }
  byId("controls").hidden = false;
  byId("key").hidden = false;
  draw();
})();
