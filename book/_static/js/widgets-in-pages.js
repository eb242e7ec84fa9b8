// Two repairs for widgets in a page without a kernel. This script must load first (html_js_files in _config.yml).

// The theme's FontAwesome would replace the <i> inside a widget's button by an <svg>; ipywidgets' Play then throws, and every
// link between widgets on the page stops with it. Nesting the <svg> inside the <i> leaves both at work.
window.FontAwesomeConfig = { autoReplaceSvg: 'nest' }

// ipywidgets hands its labels to MathJax 2 (MathJax.Hub.Queue); the page has MathJax 3. The widgets are drawn by a listener of
// the same event that was added later than this one.
window.addEventListener('load', () => {
  if (!window.MathJax || window.MathJax.Hub) return
  window.MathJax.Hub = {
    Queue: ([, , element]) => window.MathJax.startup?.promise?.then(() => window.MathJax.typesetPromise([element])),
  }
})
