// Draws the looks of drift_player.py on a canvas. The script's element stands in the player.
(function (root) {
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent)
  const find = (name) => root.querySelector(name)
  const canvas = find('canvas'), slider = find('.gfr-time'), play = find('.gfr-play')
  const hold = find('.gfr-hold'), align = find('.gfr-align')
  const pen = canvas.getContext('2d'), side = canvas.width
  const [left, bottom, span] = data.window
  const CELLS = 140
  const ground = document.createElement('canvas')
  ground.width = ground.height = CELLS
  const rgb = data.colors.map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)))
  let timer = null

  const replay = () => find('.gfr-replay:checked').value
  function film() {
    const unaligned = hold.checked && replay() === 'gan' && !align.checked
    return data.films[(hold.checked ? 'held ' : 'free ') + replay() + (unaligned ? ' unaligned' : '')]
  }

  // The class that H answers with, cell by cell of the plane.
  function answers(look) {
    const pixels = new ImageData(CELLS, CELLS)
    for (let j = 0; j < CELLS; j++) {
      const y = bottom + (span * (CELLS - j - 0.5)) / CELLS
      for (let i = 0; i < CELLS; i++) {
        const x = left + (span * (i + 0.5)) / CELLS
        let best = 0, most = -Infinity
        look.h.forEach(([a, b, c], k) => {
          const score = a * x + b * y + c
          if (score > most) { most = score; best = k }
        })
        pixels.data.set([...rgb[best], 46], 4 * (j * CELLS + i))
      }
    }
    ground.getContext('2d').putImageData(pixels, 0, 0)
    pen.imageSmoothingEnabled = false
    pen.drawImage(ground, 0, 0, side, side)
  }

  // draw(k, x, y) for every point; points stand class after class.
  function each(text, counts, draw) {
    const xy = Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
    const inside = (v) => 10 + ((side - 20) * v) / 255
    let at = 0
    counts.forEach((count, k) => {
      for (let n = 0; n < count; n++, at += 2) draw(k, inside(xy[at]), side - inside(xy[at + 1]))
    })
  }

  function cross(k, x, y) {
    pen.strokeStyle = data.colors[k]
    pen.beginPath()
    pen.moveTo(x - 7, y - 7); pen.lineTo(x + 7, y + 7)
    pen.moveTo(x - 7, y + 7); pen.lineTo(x + 7, y - 7)
    pen.stroke()
  }

  function show() {
    const looks = film()
    slider.max = looks.length - 1
    const look = looks[slider.value]
    pen.clearRect(0, 0, side, side)
    answers(look)
    pen.lineWidth = 3
    each(look.r, look.m, cross)
    pen.font = 'bold 24px sans-serif'
    // a rim in the page's own colour: the coloured ground takes contrast from the digits
    pen.strokeStyle = getComputedStyle(root).getPropertyValue('--pst-color-background') || '#ffffff'
    pen.lineWidth = 5
    pen.lineJoin = 'round'
    pen.textAlign = 'center'
    pen.textBaseline = 'middle'
    each(look.p, look.n, (k, x, y) => {
      pen.strokeText(data.classes[k], x, y)
      pen.fillStyle = data.colors[k]
      pen.fillText(data.classes[k], x, y)
    })
    tell(look)
  }

  function tell(look) {
    const mean = Math.round(look.a.reduce((sum, a) => sum + a, 0) / look.a.length)
    const where = `task ${look.t}, step ${look.s} of ${look.of}`
    find('.gfr-where').textContent = where
    slider.setAttribute('aria-valuetext', where)
    const bars = find('.gfr-bars')
    bars.textContent = ''
    const line = bars.appendChild(document.createElement('b'))
    line.textContent = `${mean} % of all ${look.a.length} classes`
    look.a.forEach((a, k) => {
      const row = bars.appendChild(document.createElement('span'))
      row.appendChild(document.createElement('i'))
      row.style.setProperty('--c', data.colors[k])
      row.style.setProperty('--a', a)
      row.append(`${data.classes[k]}: ${a} %`)
    })
    canvas.setAttribute('aria-label',
      `Features in two dimensions at task ${look.t}, step ${look.s}: ${mean} percent right`)
    align.disabled = !hold.checked || replay() !== 'gan'
  }

  function stop() {
    clearInterval(timer)
    timer = null
    find('.gfr-where').setAttribute('aria-live', 'polite')
    play.textContent = '▶ play'
  }

  play.addEventListener('click', () => {
    if (timer) return stop()
    if (+slider.value >= +slider.max) slider.value = 0
    play.textContent = '❚❚ pause'
    find('.gfr-where').setAttribute('aria-live', 'off') // three times a second
    show()
    timer = setInterval(() => {
      slider.value = +slider.value + 1
      show()
      if (+slider.value >= +slider.max) stop()
    }, 300)
  })
  slider.addEventListener('input', () => { stop(); show() })
  root.querySelectorAll('.gfr-hold, .gfr-replay, .gfr-align')
    .forEach((element) => element.addEventListener('change', show))
  slider.value = slider.max
  find('.gfr-live').hidden = false
  stop()
  show()
})(document.currentScript.closest('.gfr-player'))
