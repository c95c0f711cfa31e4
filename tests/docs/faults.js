// What is wrong with the page as it is shown: a list of sentences. Colours by WCAG 2, contrast of text (1.4.3).
() => {
  const faults = [], all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const width = document.scrollingElement.scrollWidth;
  if (width > innerWidth) faults.push(`is ${width} wide in a window of ${innerWidth}`);
  if (!document.documentElement.lang) faults.push("says no language");
  if (!document.title.trim()) faults.push("has no title");
  if (all("h1").length !== 1) faults.push(`has ${all("h1").length} first headings`);
  if (all("main, [role=main]").length !== 1) faults.push("has not one main part");

  const levels = all("h1, h2, h3, h4, h5, h6").map((heading) => Number(heading.tagName[1]));
  levels.forEach((level, place) => {
    if (place && level > levels[place - 1] + 1) faults.push(`has a heading ${level} below a heading ${levels[place - 1]}`);
  });

  const ids = all("[id]").map((element) => element.id);
  for (const id of new Set(ids.filter((id, place) => ids.indexOf(id) !== place))) faults.push(`has the id ${id} twice`);
  for (const link of all("a[href^='#']")) {
    const id = decodeURIComponent(link.hash.slice(1));
    if (id && !document.getElementById(id)) faults.push(`links to #${id}, which is not there`);
  }

  const named = (element) => [element.innerText, element.ariaLabel, element.title,
    ...[...element.querySelectorAll("[alt], title, .visually-hidden")].map((part) => part.alt || part.textContent),
    ...[...(element.labels || [])].map((label) => label.innerText)].some((name) => name && name.trim());
  for (const element of all("a[href], button, input:not([type=hidden], [type=checkbox])").filter(shown))
    if (!named(element)) faults.push(`has a nameless ${element.tagName}: ${element.outerHTML.slice(0, 80)}`);
  for (const image of all("img:not([alt])")) faults.push(`has an image without a text: ${image.src}`);
  for (const image of all("img")) if (shown(image) && image.complete && !image.naturalWidth) faults.push(`shows no ${image.src}`);

  const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const painted = new Map();
  const rgba = (colour) => painted.get(colour) || painted.set(colour, read(colour)).get(colour);
  const read = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => colour.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const seen = new Map();
  const texts = document.createTreeWalker(document.querySelector("main, [role=main]") || document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !shown(element)) continue;
    const style = getComputedStyle(element), ground = behind(element), key = `${style.color} on ${ground}`;
    if (seen.has(key)) continue;
    const [dark, bright] = [light(rgba(style.color)), light(ground)].sort((a, b) => a - b);
    seen.set(key, (bright + 0.05) / (dark + 0.05));
    if (seen.get(key) < LEAST) faults.push(`has text of contrast ${seen.get(key).toFixed(1)}: ${texts.currentNode.data.trim().slice(0, 30)}`);
  }
  return faults;
}
