// The browser of episodes. Everything a model wrote enters the page as a text node, never as HTML.
"use strict";
(() => {
  const PAGE = 25;
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("list");
  const back = document.getElementById("back");
  const next = document.getElementById("next");
  const fields = form.elements;

  // The rows are those of cluster/report/data.py, `_row`.
  const episodes = JSON.parse(document.getElementById("episodes").textContent).flatMap(([run, rows]) =>
    rows.map(([id, step, asked, references, proposal, problem, solver]) => {
      const [verdict, reason, reward, parts, version, tokens, prompt, completion] = proposal ?? [];
      const [text, answer, cell, canonical, structure, payload] = problem ?? [];
      const [rate, mean, solverPrompt, answers] = solver ?? [];
      return {
        run, id, step, asked, references,
        proposal: proposal && { verdict, reason, reward, parts, version, tokens, prompt, completion },
        problem: problem && { text, answer, cell, canonical, structure, payload },
        solver: solver && { rate, mean, prompt: solverPrompt, answers },
      };
    }));
  const many = new Set(episodes.map((e) => e.run)).size > 1;
  let found = [], page = 0;

  const el = (tag, className, ...children) => {
    const node = document.createElement(tag);
    node.className = className;
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const signed = (value) => (value === null || value === undefined ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2));
  const percent = (value) => `${Math.round(100 * value)} %`;
  const words = (text) => text.replaceAll("_", " ");
  const partsText = (parts) => Object.entries(parts).map(([name, value]) => `${words(name)}\u00a0${signed(value)}`).join(", ");
  const prose = (title, text) => (text ? el("div", "", el("span", "soft", title), el("pre", "", text)) : null);
  const named = (title, text) => (text.includes("\n") ? prose(title, text) : el("p", "", el("span", "soft", `${title} `), el("code", "", text)));
  const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const outcome = (p) => (p.reason && p.reason !== p.verdict ? `${p.verdict}: ${p.reason}` : p.verdict);

  const rewardOf = (e, role) => (role !== "solver" && e.proposal ? e.proposal.reward : e.solver?.mean);
  const everything = (e) => (e.haystack ??= [
    e.id, ...(e.references ?? []), ...Object.values(e.proposal ?? {}), ...Object.values(e.problem ?? {}),
    ...Object.values(e.problem?.payload ?? {}).flat(Infinity),
    e.solver?.prompt, ...(e.solver?.answers ?? []).map((a) => `${a[1]} ${a[5] ?? ""} ${a[4] ?? ""}`),
  ].filter((value) => typeof value === "string").join("\n").toLowerCase());

  function matches(e, f) {
    const reward = rewardOf(e, f.role);
    return (!f.run || e.run === f.run)
      && (f.stepFrom === "" || e.step >= Number(f.stepFrom)) && (f.stepTo === "" || e.step <= Number(f.stepTo))
      && (!f.asked || e.asked === f.asked) && (!f.cell || e.problem?.cell === f.cell)
      && (!f.role || Boolean(e[f.role === "solver" ? "solver" : "proposal"]))
      && (f.rewardFrom === "" || (reward ?? -Infinity) >= Number(f.rewardFrom))
      && (f.rewardTo === "" || (reward ?? Infinity) <= Number(f.rewardTo))
      && (!f.verdict || (e.proposal && (e.proposal.verdict === f.verdict || outcome(e.proposal) === f.verdict)))
      && (!f.text || everything(e).includes(f.text.toLowerCase()));
  }

  function proposerSide(e) {
    const p = e.proposal;
    return el("div", "",
      el("h3", "", "Proposer"),
      el("p", "", el("span", p.verdict, words(outcome(p))), `, reward ${signed(p.reward)}`,
        Object.keys(p.parts).length ? ` (${partsText(p.parts)})` : "", `, ${p.tokens} tokens, weights ${p.version}`),
      prose("references", (e.references ?? []).join((e.references ?? []).some((r) => r.includes("\n")) ? "\n\n" : "\n")),
      prose("prompt", p.prompt),
      prose("completion", p.completion));
  }

  function solverSide(e) {
    const rows = e.solver.answers.map(([count, verdict, reward, parts, text, reason]) => el("tr", "",
      el("td", "", `${count}\u00a0×`), el("td", `left ${verdict}`, words(outcome({ verdict, reason }))), el("td", "", signed(reward)),
      el("td", "left", partsText(parts)), el("td", "left mono", text ?? "")));
    const head = el("tr", "", el("th", "", ""), el("th", "left", "verdict"), el("th", "", "reward"),
      el("th", "left", "parts"), el("th", "left", "completion"));
    return el("div", "",
      el("h3", "", "Solver"),
      el("p", "", `${percent(e.solver.rate)} right, mean reward ${signed(e.solver.mean)}`),
      prose("prompt", e.solver.prompt),
      el("div", "scroll", el("table", "answers", el("thead", "", head), el("tbody", "", ...rows))));
  }

  // A part of a problem's payload: a list of lists, such as pairs, is a table, and anything else a text.
  function part([name, value]) {
    const isTable = Array.isArray(value) && value.length > 0 && value.every(Array.isArray);
    if (!isTable) return named(words(name), plain(value));
    const rows = value.map((row) => el("tr", "", ...row.map((cell) => el("td", "left mono", plain(cell)))));
    return el("div", "", el("span", "soft", words(name)), el("div", "scroll", el("table", "answers", el("tbody", "", ...rows))));
  }

  function problemSide({ text, answer, cell, canonical, structure, payload }) {
    return el("div", "",
      el("h3", "", "Problem"),
      el("pre", "", text),
      named("cell", cell),
      named("answer", answer),
      ...Object.entries(payload ?? {}).map(part),
      named("canonical form", canonical),
      named("structure", structure));
  }

  function card(e, role) {
    const summary = el("summary", "",
      many ? el("span", "soft", e.run) : null,
      el("span", "soft", `step ${e.step}`),
      el("span", "", `${e.asked} → ${e.problem?.cell ?? "no problem"}`),
      el("span", "mono", e.problem?.text ?? e.proposal?.completion ?? ""),
      e.proposal && role !== "solver" ? el("span", e.proposal.verdict, words(outcome(e.proposal))) : null,
      el("span", "number", signed(rewardOf(e, role))),
      e.solver && role !== "proposer" ? el("span", "number", `${percent(e.solver.rate)} solved`) : null);
    const node = el("details", "episode", summary);
    node.addEventListener("toggle", () => {
      if (node.childElementCount > 1) return; // built when it is first opened
      node.append(el("div", "sides",
        e.proposal && role !== "solver" ? proposerSide(e) : null,
        e.problem ? problemSide(e.problem) : null,
        e.solver && role !== "proposer" ? solverSide(e) : null));
    });
    return node;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const start = page * PAGE;
    list.replaceChildren(...found.slice(start, start + PAGE).map((e) => card(e, fields.role.value)));
    document.getElementById("count").textContent =
      `${found.length.toLocaleString("en")} of ${episodes.length.toLocaleString("en")} match, page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
  }

  function update() {
    const f = Object.fromEntries(new FormData(form));
    found = episodes.filter((e) => matches(e, f));
    const value = { "-step": (e) => -e.step, reward: (e) => rewardOf(e, f.role) ?? Infinity, "-reward": (e) => -(rewardOf(e, f.role) ?? -Infinity) }[f.order];
    if (value) found.sort((a, b) => value(a) - value(b));
    page = 0;
    show();
  }

  const outcomes = new Set(episodes.filter((e) => e.proposal).flatMap((e) => [e.proposal.verdict, outcome(e.proposal)]));
  for (const text of [...outcomes].sort()) {
    const option = el("option", "", words(text));
    option.value = text;
    fields.verdict.append(option);
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  back.addEventListener("click", () => { page -= 1; show(); });
  next.addEventListener("click", () => { page += 1; show(); });
  update();
})();
