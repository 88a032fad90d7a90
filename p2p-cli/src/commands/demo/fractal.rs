//! The Mandelbrot set in tiles.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::trouble::{Code, Trouble};

/// What part of the plane is shown: a valley with much to compute.
const CENTRE: (f64, f64) = (-0.743_643, 0.131_825);
const WIDTH: f64 = 0.012;
/// A picture's sides, pixels.
const SIDE: u32 = 16_384;

/// A picture and how it is cut.
#[derive(Clone, Debug, Args)]
pub struct Picture {
    /// Pixels from left to right.
    #[arg(long, default_value_t = 1280)]
    pub width: u32,
    /// Pixels from top to bottom.
    #[arg(long, default_value_t = 960)]
    pub height: u32,
    /// The side of a square tile; one tile is one task.
    #[arg(long, default_value_t = 160)]
    pub tile_side: u32,
    /// Steps after which a point counts as inside.
    #[arg(long, default_value_t = 3000)]
    pub steps: u32,
}

impl Picture {
    pub fn check(&self) -> Result<(), Trouble> {
        let sides = [self.width, self.height, self.tile_side];
        if sides.contains(&0) || sides.iter().any(|side| *side > SIDE) || self.tile_side > 1024 {
            let words = format!("a picture has 1 to {SIDE} pixels a side, and tiles of 1 to 1024");
            return Err(Trouble::new(Code::Usage, words));
        }
        Ok(())
    }

    /// How many tiles there are.
    pub fn tiles(&self) -> u32 {
        self.width.div_ceil(self.tile_side) * self.height.div_ceil(self.tile_side)
    }

    /// A tile's left, top, width and height.
    pub fn area(&self, tile: u32) -> (u32, u32, u32, u32) {
        let columns = self.width.div_ceil(self.tile_side);
        let (left, top) = (tile % columns * self.tile_side, tile / columns * self.tile_side);
        (left, top, self.tile_side.min(self.width - left), self.tile_side.min(self.height - top))
    }

    /// A tile's pixels, three bytes each, row by row.
    pub fn pixels(&self, tile: u32) -> Vec<u8> {
        let (left, top, width, height) = self.area(tile);
        let scale = WIDTH / f64::from(self.width);
        let mut pixels = Vec::with_capacity((width * height * 3) as usize);
        for y in top..top + height {
            for x in left..left + width {
                let re = CENTRE.0 + (f64::from(x) - f64::from(self.width) / 2.0) * scale;
                let im = CENTRE.1 + (f64::from(y) - f64::from(self.height) / 2.0) * scale;
                pixels.extend_from_slice(&colour(escape(re, im, self.steps)));
            }
        }
        pixels
    }
}

/// Computes one tile, as a task.
pub fn print_tile(picture: &Picture, tile: u32) -> Result<ExitCode, Trouble> {
    picture.check()?;
    if tile >= picture.tiles() {
        return Err(Trouble::new(Code::Usage, format!("there are {} tiles", picture.tiles())));
    }
    let written = std::io::stdout().write_all(&picture.pixels(tile));
    written.map_err(|fault| Trouble::new(Code::CannotWrite, format!("the tile cannot be written: {fault}")))?;
    Ok(ExitCode::SUCCESS)
}

/// After how many steps the point leaves for ever, smoothed between the whole numbers; `None` if it stays.
fn escape(re: f64, im: f64, steps: u32) -> Option<f64> {
    let (mut x, mut y) = (0f64, 0f64);
    for step in 0..steps {
        let (x2, y2) = (x * x, y * y);
        if x2 + y2 > 256.0 {
            let smooth = (x2 + y2).ln().log2() - 256f64.ln().log2();
            return Some(f64::from(step) + 1.0 - smooth);
        }
        y = 2.0 * x * y + im;
        x = x2 - y2 + re;
    }
    None
}

/// Deep blue over white to gold and back, three waves out of step.
fn colour(escaped: Option<f64>) -> [u8; 3] {
    let Some(steps) = escaped else { return [0, 0, 0] };
    let wave = |phase: f64| (127.5 + 127.5 * (steps.max(1.0).ln() * 2.4 + phase).cos()) as u8;
    [wave(3.4), wave(3.0), wave(2.3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_picture_once() {
        let picture = Picture { width: 100, height: 70, tile_side: 32, steps: 10 };
        let mut covered = vec![0; 7000];
        for tile in 0..picture.tiles() {
            let (left, top, width, height) = picture.area(tile);
            assert_eq!(picture.pixels(tile).len() as u32, width * height * 3);
            for y in top..top + height {
                for x in left..left + width {
                    covered[(y * 100 + x) as usize] += 1;
                }
            }
        }
        assert!(covered.iter().all(|count| *count == 1));
    }

    #[test]
    fn the_origin_stays_and_far_points_leave() {
        assert_eq!(escape(0.0, 0.0, 1000), None);
        assert!(escape(2.0, 2.0, 1000).is_some());
    }
}
