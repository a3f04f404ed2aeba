// A pointer over a chart: the legend shows the values at that step instead of the last ones.
for (const figure of document.querySelectorAll("[data-hover]")) {
  const lines = JSON.parse(figure.dataset.hover);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const at = figure.querySelector(".at");
  const values = [...figure.querySelectorAll(".legend b")];
  const last = [at, ...values].map((node) => node.textContent);

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const near = lines.map((points) =>
      points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)),
    );
    near.forEach((point, i) => (values[i].textContent = point[2]));
    at.textContent = "step " + near[0][1];
    cursor.setAttribute("x1", near[0][0]);
    cursor.setAttribute("x2", near[0][0]);
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("pointerleave", () => {
    [at, ...values].forEach((node, i) => (node.textContent = last[i]));
    cursor.style.visibility = "hidden";
  });
}
