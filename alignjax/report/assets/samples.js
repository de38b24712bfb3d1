"use strict";
// The browser of responses: filters, sorts and pages what the element "samples-data" holds. All text of a
// model reaches the page as textContent, never as mark-up. Without this script the first page stays as it is.
(() => {
  const data = JSON.parse(document.getElementById("samples-data").textContent);
  const list = document.getElementById("samples-list");
  const tools = document.getElementById("samples-tools");
  const field = (name) => tools.elements[name];
  const state = { page: 0, found: [] };

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const option = (select, value, text) => select.append(new Option(text, value));
  const signed = (x) => (x > 0 ? "+" : "") + x.toFixed(2);

  // The draw that is shown of each policy; a policy with fewer draws shows its last.
  const drawn = (prompt) => {
    const k = Number(field("draw").value) - 1;
    return prompt.r.map((row) => row[Math.min(k, row.length - 1)]);
  };
  const judged = (prompt) => drawn(prompt)[data.judged];

  const refuses = {
    "": () => true,
    yes: (prompt) => judged(prompt)?.[1] === 1,
    no: (prompt) => judged(prompt)?.[1] === 0,
    differs: (prompt) => new Set(drawn(prompt).map((one) => one?.[1])).size > 1,
  };

  // Every order is ascending in its key; what has no key comes last.
  const orders = {
    given: () => 0,
    longest: (prompt) => (judged(prompt) ? -judged(prompt)[2] : null),
    shortest: (prompt) => judged(prompt)?.[2] ?? null,
  };
  data.scores.forEach((name, j) => {
    orders[`worst-${j}`] = (prompt) => prompt.d[j];
    orders[`best-${j}`] = (prompt) => (prompt.d[j] === null ? null : -prompt.d[j]);
    orders[`lowest-${j}`] = (prompt) => judged(prompt)?.[3][j] ?? null;
  });

  const select = () => {
    const wanted = field("text").value.trim().toLowerCase();
    const category = field("category").value;
    const refused = refuses[field("refusal").value];
    const has = (prompt) =>
      !wanted ||
      prompt.p.toLowerCase().includes(wanted) ||
      drawn(prompt).some((one) => one && one[0].toLowerCase().includes(wanted));
    const key = orders[field("order").value];
    state.found = data.prompts
      .filter((prompt) => (!category || prompt.c === category) && refused(prompt) && has(prompt))
      .map((prompt) => [key(prompt), prompt])
      .sort(([a], [b]) => (a === null ? 1 : b === null ? -1 : a - b))
      .map(([, prompt]) => prompt);
    state.page = 0;
    show();
  };

  const response = (one, policy) => {
    const cell = make("div", "answer");
    cell.style.borderTopColor = policy.colour;
    cell.append(make("h3", "", policy.label));
    const [text, refusal, tokens, scores] = one;
    const body = make("div", "text", text.slice(0, data.fold));
    body.dir = "auto";
    cell.append(body);
    if (text.length > data.fold) {
      const rest = make("details", "rest");
      rest.append(make("summary", "", `${(text.length - data.fold).toLocaleString("en")} more characters`));
      rest.append(make("div", "text", text.slice(data.fold)));
      cell.append(rest);
    }
    const facts = data.scores.map((name, j) => `${name} ${scores[j] === null ? "-" : scores[j].toFixed(2)}`);
    facts.push(`${tokens.toLocaleString("en")} tokens`, ...(refusal ? ["refusal"] : []));
    cell.append(make("div", "facts-line", facts.join(", ")));
    return cell;
  };

  const entry = (prompt) => {
    const item = make("li", "card sample");
    const head = make("div", "prompt", prompt.p);
    head.dir = "auto";
    item.append(head);
    const facts = data.scores.flatMap((name, j) =>
      prompt.d[j] === null ? [] : [`${name} ${signed(prompt.d[j])}`]);
    const line = facts.length ? `aligned against reference, mean of all draws: ${facts.join(", ")}` : "";
    const said = [prompt.c, line].filter(Boolean).join("; ");
    if (said) item.append(make("p", "facts-line", said));
    const answers = make("div", "answers");
    drawn(prompt).forEach((one, j) => {
      if (one) answers.append(response(one, data.policies[j]));
    });
    item.append(answers);
    return item;
  };

  const show = () => {
    const pages = Math.max(1, Math.ceil(state.found.length / data.page));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const start = state.page * data.page;
    const shown = state.found.slice(start, start + data.page);
    list.replaceChildren(...shown.map(entry));
    const range = shown.length ? `${start + 1} to ${start + shown.length} of ` : "";
    const count = `${range}${state.found.length.toLocaleString("en")} prompts`;
    document.querySelectorAll("[data-count]").forEach((element) => (element.textContent = count));
    document.querySelectorAll("[data-step]").forEach((button) => {
      const to = state.page + Number(button.dataset.step);
      button.disabled = to < 0 || to >= pages;
    });
  };

  // Values that a spreadsheet would run as a formula begin with an apostrophe.
  const cell = (value) => {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = () => {
    const head = ["prompt", "category", "policy", "response", "refusal", "tokens", ...data.scores];
    const rows = state.found.flatMap((prompt) =>
      drawn(prompt).flatMap((one, j) =>
        one ? [[prompt.p, prompt.c, data.policies[j].label, one[0], one[1], one[2], ...one[3]]] : []));
    return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  };

  const categories = [...new Set(data.prompts.map((prompt) => prompt.c).filter((c) => c !== null))].sort();
  categories.forEach((name) => option(field("category"), name, name));
  field("category").closest("label").hidden = !categories.length;
  const name = data.policies[data.judged].label;
  option(field("refusal"), "yes", `${name} refuses`);
  option(field("refusal"), "no", `${name} does not refuse`);
  option(field("refusal"), "differs", "some policies refuse, some do not");
  option(field("order"), "given", "as given");
  data.scores.forEach((score, j) => {
    if (data.prompts.some((prompt) => prompt.d[j] !== null)) {
      option(field("order"), `worst-${j}`, `${score}: least above the reference first`);
      option(field("order"), `best-${j}`, `${score}: most above the reference first`);
    }
    option(field("order"), `lowest-${j}`, `${score} of ${name}: lowest first`);
  });
  option(field("order"), "longest", `${name}: longest first`);
  option(field("order"), "shortest", `${name}: shortest first`);
  const draws = Math.max(...data.prompts.flatMap((prompt) => prompt.r.map((row) => row.length)));
  for (let k = 1; k <= draws; k++) option(field("draw"), k, `${k} of ${draws}`);

  let waiting = 0;
  tools.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(select, 120);
  });
  tools.addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll("[data-step]").forEach((button) =>
    button.addEventListener("click", () => {
      state.page += Number(button.dataset.step);
      show();
      document.getElementById("samples").scrollIntoView();
    }));
  document.getElementById("samples-csv").addEventListener("click", () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "responses.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  document.querySelectorAll("#samples [hidden][data-script]").forEach((element) => (element.hidden = false));
  select();
})();
