// Three repairs for widgets in a page without a kernel. This script must load first (html_js_files in _config.yml).

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

// The manager marks the chosen one of several toggle buttons by a class alone, and gives the buttons no group. A screen reader
// needs aria-pressed, and the name of what is chosen.
function describeToggles() {
  for (const group of document.querySelectorAll('.widget-toggle-buttons')) {
    const label = group.querySelector('label')
    const buttons = group.querySelectorAll('button')
    if (group.getAttribute('role') !== 'group') {
      group.setAttribute('role', 'group')
      if (label) group.setAttribute('aria-label', label.textContent)
    }
    for (const button of buttons) {
      const pressed = String(button.classList.contains('mod-active'))
      if (button.getAttribute('aria-pressed') !== pressed) button.setAttribute('aria-pressed', pressed)
    }
  }
}
window.addEventListener('load', () => {
  describeToggles()
  new MutationObserver(describeToggles).observe(
    document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ['class'] })
})
