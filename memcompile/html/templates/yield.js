"use strict";
/* Share of the emulated chips that reach an accuracy which the reader chooses. */
page.onStart(() => {
  const slider = document.getElementById("threshold"), output = document.getElementById("yield");
  if (!slider) return;
  const accuracy = page.data("facts").accuracy;
  const chips = accuracy.tuned ? accuracy.tuned.chips : accuracy.emulated;
  const all = [...accuracy.transferred, ...chips], low = Math.min(...all) - 0.02, high = Math.min(1, Math.max(...all) + 0.005);
  function show() {
    const least = low + (high - low) * slider.value / 1000;
    const reached = chips.filter((share) => share >= least).length;
    output.textContent = `${(100 * least).toFixed(2)} %: ${reached} of ${chips.length} chips`;
  }
  slider.value = 500;
  slider.addEventListener("input", show);
  show();
});
