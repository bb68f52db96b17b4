"use strict";
// Search in the groups, and the list of all classes. Texts from data reach the page
// through textContent alone.
(() => {
  const PAGE = 50;
  const NAMED = 8;
  const data = JSON.parse(document.getElementById("data").textContent);
  const size = data.id.length;
  const everything = Array.from({ length: size }, (_, i) => i);
  const texts = everything.map((i) => `${data.name[i]}\n${data.id[i]}`.toLowerCase());
  const accuracy = everything.map((i) => (data.images[i] ? data.hits[i] / data.images[i] : -1));
  const element = (id) => document.getElementById(id);
  const count = (number, noun, plural) =>
    `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
  const matching = (query) => everything.filter((i) => texts[i].includes(query));

  document.documentElement.classList.add("scripted");

  // --- the groups ---
  const cards = [...document.querySelectorAll(".card")];
  const names = data.groups.map((name, t) => `${t + 1} ${name}`.toLowerCase());

  function searchGroups() {
    const query = element("group-query").value.trim().toLowerCase();
    const found = data.groups.map(() => []);
    if (query) {
      for (const i of matching(query)) {
        for (const number of data.groups_of[i]) found[number - 1].push(i);
      }
    }
    let shown = 0;
    cards.forEach((card, t) => {
      card.hidden = Boolean(query) && !found[t].length && !names[t].includes(query);
      shown += !card.hidden;
      const line = card.querySelector(".found");
      line.hidden = !found[t].length;
      const some = found[t].slice(0, NAMED).map((i) => data.name[i]).join(", ");
      const rest = found[t].length - NAMED;
      line.textContent = `Holds ${some}${rest > 0 ? ` and ${rest.toLocaleString("en")} more` : ""}`;
    });
    element("group-count").textContent = query
      ? `${shown.toLocaleString("en")} of ${count(cards.length, "group", "groups")}`
      : count(cards.length, "group", "groups");
  }

  // --- the classes ---
  const collator = new Intl.Collator("en", { numeric: true });
  const orders = {
    name: (i, j) => collator.compare(data.name[i], data.name[j]),
    id: (i, j) => collator.compare(data.id[i], data.id[j]),
    images: (i, j) => data.images[i] - data.images[j],
    accuracy: (i, j) => accuracy[i] - accuracy[j],
  };
  // Sorted once for each column, filtered as often as anybody types.
  const sorted = new Map();
  const state = { sort: "", descending: false, page: 0, found: everything };

  function ordered() {
    if (!state.sort) return everything;
    if (!sorted.has(state.sort)) {
      sorted.set(state.sort, [...everything].sort(orders[state.sort]));
    }
    const order = sorted.get(state.sort);
    return state.descending ? [...order].reverse() : order;
  }

  function searchClasses() {
    const query = element("class-query").value.trim().toLowerCase();
    const group = Number(element("class-group").value);
    state.found = ordered().filter(
      (i) => texts[i].includes(query) && (!group || data.groups_of[i].includes(group)),
    );
    state.page = 0;
    drawClasses();
  }

  function cell(row, text, kind) {
    const made = document.createElement("td");
    made.className = kind;
    made.textContent = text;
    row.append(made);
    return made;
  }

  function drawRow(i) {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.className = "l";
    head.textContent = data.name[i];
    row.append(head);
    cell(row, data.id[i], "l");
    cell(row, data.groups_of[i].map((t) => `${t} ${data.groups[t - 1]}`).join(", "), "l");
    cell(row, data.images[i].toLocaleString("en"), "r");
    const share = cell(row, "", "share");
    if (data.images[i]) {
      const bar = document.createElement("span");
      bar.className = "bar";
      bar.style.setProperty("--share", accuracy[i].toFixed(4));
      share.append(bar, `${(100 * accuracy[i]).toFixed(1)}%`);
    }
    const other = data.taken[i];
    const times = data.times[i].toLocaleString("en");
    cell(row, other < 0 ? "" : `${data.name[other]} (${times})`, "l");
    return row;
  }

  function drawClasses() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    const start = state.page * PAGE;
    const body = document.querySelector("#class-table tbody");
    body.replaceChildren(...state.found.slice(start, start + PAGE).map(drawRow));
    element("page-number").textContent =
      `page ${(state.page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
    element("previous").disabled = state.page === 0;
    element("next").disabled = state.page + 1 >= pages;
    element("class-count").textContent = state.found.length === size
      ? count(size, "class", "classes")
      : `${state.found.length.toLocaleString("en")} of ${count(size, "class", "classes")}`;
  }

  function turn(step) {
    state.page += step;
    drawClasses();
  }

  function sortBy(header) {
    state.descending = state.sort === header.dataset.sort && !state.descending;
    state.sort = header.dataset.sort;
    for (const other of document.querySelectorAll("th[data-sort]")) {
      other.removeAttribute("aria-sort");
    }
    header.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    searchClasses();
  }

  const choice = element("class-group");
  data.groups.forEach((name, t) => choice.add(new Option(`${t + 1} ${name}`, t + 1)));
  element("group-query").addEventListener("input", searchGroups);
  element("class-query").addEventListener("input", searchClasses);
  choice.addEventListener("change", searchClasses);
  element("previous").addEventListener("click", () => turn(-1));
  element("next").addEventListener("click", () => turn(1));
  for (const header of document.querySelectorAll("th[data-sort]")) {
    header.querySelector("button").addEventListener("click", () => sortBy(header));
  }
  for (const link of document.querySelectorAll("a[data-group]")) {
    link.addEventListener("click", () => {
      choice.value = link.dataset.group;
      element("class-query").value = "";
      searchClasses();
    });
  }
  searchGroups();
  searchClasses();
})();
