//! A picture of each question: one bar for the median of each case, a line from the least to the greatest sample.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::{Better, Kind, Measured, MeasuredCase};
use crate::report::Answer;
use crate::statistics::{Figure, Summary};

const WIDTH: u32 = 980;
const ROW: u32 = 24;
const HEAD: u32 = 62;
const FOOT: u32 = 34;
/// Left of the bars, for names.
const NAMES: u32 = 330;
/// Right of the bars, for figures.
const FIGURES: u32 = 110;

type Result<T> = core::result::Result<T, Box<dyn Error>>;

/// Writes `<key>.svg` into a folder.
pub fn write(answer: &Answer, folder: &Path) -> Result<()> {
    let measured = |table: &Measured| table.cases.iter().filter(|case| case.skipped.is_none()).count() as u32;
    let heights: Vec<u32> = answer.tables.iter().map(|table| HEAD + FOOT + ROW * measured(table)).collect();
    let path = folder.join(format!("{}.svg", answer.key));
    let mut rest = SVGBackend::new(&path, (WIDTH, heights.iter().sum::<u32>().max(1))).into_drawing_area();
    rest.fill(&WHITE)?;
    for (table, height) in answer.tables.iter().zip(heights) {
        let (area, below) = rest.split_vertically(height);
        draw(table, &area)?;
        rest = below;
    }
    rest.present()?;
    Ok(())
}

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ours => RGBColor(214, 96, 32),
        Kind::Rival => RGBColor(84, 119, 160),
        Kind::Limit => RGBColor(165, 165, 165),
    }
}

/// Best first. The axis is logarithmic where the figures lie far apart.
fn draw(table: &Measured, area: &DrawingArea<SVGBackend, Shift>) -> Result<()> {
    let mut cases: Vec<(&MeasuredCase, Summary)> =
        table.cases.iter().filter_map(|case| Some((case, case.summary()?))).collect();
    cases.sort_by(|(_, one), (_, other)| match table.better {
        Better::Lower => one.median.total_cmp(&other.median),
        Better::Higher => other.median.total_cmp(&one.median),
    });
    let greatest = cases.iter().map(|(_, summary)| summary.max).fold(0.0, f64::max);
    let least = cases.iter().map(|(_, summary)| summary.min).fold(f64::INFINITY, f64::min);
    let is_far_apart = greatest > 20.0 * least;
    let start = if is_far_apart { least / 2.0 } else { 0.0 };
    let bars = f64::from(WIDTH - NAMES - FIGURES);
    let x = |figure: f64| {
        let share = if is_far_apart { (figure / start).ln() / (greatest / start).ln() } else { figure / greatest };
        NAMES as i32 + (share.clamp(0.0, 1.0) * bars) as i32
    };

    let text = |size: f64| TextStyle::from(("sans-serif", size)).color(&RGBColor(40, 40, 40));
    let better = if table.better == Better::Lower { "less is better" } else { "more is better" };
    let scale = if is_far_apart { ", logarithmic" } else { "" };
    area.draw_text(&table.title, &text(17.0), (14, 12))?;
    area.draw_text(&format!("{}, {better}{scale}", table.unit), &text(12.0), (14, 36))?;
    let bottom = (HEAD + ROW * cases.len() as u32) as i32;
    for mark in marks(start, greatest, is_far_apart) {
        let grid = RGBColor(225, 225, 225);
        area.draw(&PathElement::new([(x(mark), HEAD as i32 - 4), (x(mark), bottom)], grid))?;
        area.draw_text(&Figure::of_three_digits(mark).to_string(), &text(11.0), (x(mark) - 8, bottom + 4))?;
    }
    for (row, (case, summary)) in cases.iter().enumerate() {
        let top = (HEAD + ROW * row as u32) as i32;
        let (middle, shade) = (top + ROW as i32 / 2, colour(case.kind));
        area.draw_text(&case.name, &text(13.0), (14, top + 4))?;
        let bar = [(x(start.max(f64::MIN_POSITIVE)), top + 4), (x(summary.median), top + ROW as i32 - 4)];
        area.draw(&Rectangle::new(bar, shade.filled()))?;
        area.draw(&PathElement::new([(x(summary.min), middle), (x(summary.max), middle)], BLACK))?;
        area.draw_text(
            &Figure::of_three_digits(summary.median).to_string(),
            &text(13.0),
            (x(summary.max) + 8, top + 4),
        )?;
    }
    Ok(())
}

/// Round figures along the axis.
fn marks(start: f64, end: f64, is_logarithmic: bool) -> Vec<f64> {
    if is_logarithmic {
        let (first, last) = (start.log10().ceil() as i32, end.log10().floor() as i32);
        return (first..=last).map(|power| 10f64.powi(power)).collect();
    }
    let step = 10f64.powf((end / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0].map(|times| times * step).into_iter().rfind(|step| end / step >= 3.0).unwrap_or(step);
    (1..).map(|count| f64::from(count) * step).take_while(|&mark| mark <= end).take(12).collect()
}
