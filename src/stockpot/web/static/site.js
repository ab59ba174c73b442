// Pages are complete without this. It keeps the page of running jobs up to date, brings the model
// that a drawing is about into view, and copies commands.
for (const place of document.querySelectorAll("[data-poll]")) {
  let before = "";
  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(place.dataset.poll, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.statusText);
      const text = await answer.text();
      if (text !== before) {
        const open = new Set([...place.querySelectorAll("details[open][id]")].map((each) => each.id));
        const held = document.activeElement?.id;
        place.innerHTML = text;
        for (const each of place.querySelectorAll("details[id]")) each.open = open.has(each.id) || each.open;
        if (held) document.getElementById(held)?.focus({ preventScroll: true });
        before = text;
      }
      place.dataset.polled = String(Number(place.dataset.polled ?? 0) + 1);
      document.body.classList.remove("lost");
    } catch {
      document.body.classList.add("lost");
    }
  };
  setInterval(look, Number(place.dataset.every ?? 2000));
  document.addEventListener("visibilitychange", look);
}
for (const node of document.querySelectorAll(".drawing .here")) {
  const frame = node.closest(".drawing");
  const [box, around] = [node.getBoundingClientRect(), frame.getBoundingClientRect()];
  frame.scrollLeft += box.left + box.width / 2 - (around.left + around.width / 2);
}
for (const button of document.querySelectorAll("button.copy")) {
  const field = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl-C";  // without a safe address only the person may copy
    }
  });
}
