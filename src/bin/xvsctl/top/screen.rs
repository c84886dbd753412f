//! A terminal that is drawn on in place, and as it was afterwards.

use std::io;
use std::io::Write;

use terminal_size::terminal_size;

use super::lines::Size;

/// The other screen, as full-screen programs use it, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal on standard output while it is drawn on.
pub struct Screen;

impl Screen {
    pub fn enter() -> io::Result<Self> {
        let screen = Self;
        write!(io::stdout(), "{ENTER}")?;
        Ok(screen)
    }

    pub fn size() -> Size {
        // As long as it is not known, what all have had.
        terminal_size().map_or(Size { width: 80, height: 24 }, |(width, height)| Size {
            width: width.0.into(),
            height: height.0.into(),
        })
    }

    /// Puts lines, which fit, in place of those that are there.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        // At once, so that nothing flickers: home, each line and the end of an old
        // one, all below.
        let text = lines.join("\x1b[K\r\n");
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H{text}\x1b[K\x1b[J")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = write!(out, "{LEAVE}");
        let _ = out.flush();
    }
}
