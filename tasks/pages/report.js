// Without this script the titles of the dots still show; with it the nearest dot answers, also by touch.
const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll(".map")) {
  const svg = figure.querySelector("svg");
  const dots = [...svg.querySelectorAll("circle")].map(dot => {
    const title = dot.querySelector("title");
    const text = title.textContent;
    title.remove();
    return {dot, text, x: +dot.getAttribute("cx"), y: +dot.getAttribute("cy")};
  });
  let current = null, pinned = null;
  const show = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let near = null, least = .0009;
    for (const one of dots) {
      const distance = (one.x - at.x) ** 2 + (one.y - at.y) ** 2;
      if (distance < least && !one.dot.classList.contains("dim")) { near = one; least = distance; }
    }
    if (current && current !== near) current.dot.classList.remove("on");
    current = near;
    tip.hidden = !near;
    if (!near) return;
    near.dot.classList.add("on");
    tip.textContent = near.text;
    const left = Math.min(event.pageX + 14, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = event.pageY + 16 + "px";
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { if (current) current.dot.classList.remove("on"); tip.hidden = true; });
  const buttons = [...figure.querySelectorAll("button")];
  const marked = svg.querySelectorAll("[data-g]");
  const mark = group => marked.forEach(one => one.classList.toggle("dim", group !== null && one.dataset.g !== group));
  for (const button of buttons) {
    button.addEventListener("pointerenter", () => mark(button.dataset.g));
    button.addEventListener("pointerleave", () => mark(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === button.dataset.g ? null : button.dataset.g;
      buttons.forEach(other => other.setAttribute("aria-pressed", other.dataset.g === pinned));
      mark(pinned);
    });
  }
}
