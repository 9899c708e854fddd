//! A run as tables to read and as JSON to keep.

use serde_json::{Value, json};

use crate::measure::{Better, Comparison, Measured, MeasuredCase};
use crate::statistics::{Figure, Summary};

/// A question with its answer.
pub struct Answer {
    pub key: &'static str,
    pub title: &'static str,
    pub tables: Vec<Measured>,
}

/// The goals of an answer: how many were met, and those that were not.
pub fn verdicts(answers: &[Answer]) -> (usize, Vec<(&Measured, &MeasuredCase, Comparison)>) {
    let (mut met, mut missed) = (0, Vec::new());
    for table in answers.iter().flat_map(|answer| &answer.tables) {
        for case in &table.cases {
            for comparison in table.comparisons(case) {
                if comparison.is_met {
                    met += 1;
                } else {
                    missed.push((table, case, comparison));
                }
            }
        }
    }
    (met, missed)
}

/// The tables of an answer in Markdown.
pub fn markdown(answer: &Answer) -> String {
    let mut text = format!("## {}\n", answer.title);
    for table in &answer.tables {
        let has_net = table.cases.iter().any(|case| case.net.is_some());
        let rounds = table.cases.iter().map(|case| case.samples.len()).max().unwrap_or(0);
        let better = if table.better == Better::Lower { "less is better" } else { "more is better" };
        text += &format!("\n### {} ({}, {better}, {rounds} rounds)\n\n", table.title, table.unit);
        text +=
            if has_net { "| case | median | min | max | above the floor |" } else { "| case | median | min | max |" };
        text += " ratio to | goal |\n|---|---:|---:|---:|";
        text += if has_net { "---:|---|---|\n" } else { "---|---|\n" };
        for case in &table.cases {
            text += &row(table, case, has_net);
        }
    }
    text
}

fn row(table: &Measured, case: &MeasuredCase, has_net: bool) -> String {
    let Some(summary) = case.summary() else {
        let reason = case.skipped.as_deref().unwrap_or_default().replace(['|', '\n'], " ");
        return format!("| {} | skipped: {reason} |\n", case.name);
    };
    let [median, min, max] = [summary.median, summary.min, summary.max].map(Figure::of_three_digits);
    let mut text = format!("| {} | {median} | {min} | {max} |", case.name);
    if has_net {
        let net = case.net.as_deref().map(|net| Summary::of(net).median);
        text += &net.map_or_else(|| " |".to_owned(), |net| format!(" {} |", Figure::of_three_digits(net)));
    }
    let comparisons = table.comparisons(case);
    let joined = |one: &dyn Fn(&Comparison) -> String| comparisons.iter().map(one).collect::<Vec<_>>().join("; ");
    let ratios = joined(&|comparison| {
        let ratio = comparison.ratio;
        format!(
            "{}: {} ({}-{})",
            comparison.with,
            Figure::of_three_digits(ratio.median),
            Figure::of_three_digits(ratio.min),
            Figure::of_three_digits(ratio.max)
        )
    });
    let goals = joined(&|comparison| {
        let sign = if table.better == Better::Lower { "<=" } else { ">=" };
        format!("{sign} {}x: {}", comparison.bound, if comparison.is_met { "met" } else { "MISSED" })
    });
    text + &format!(" {ratios} | {goals} |\n")
}

/// Everything that was measured, every sample of it.
pub fn json(machine: &Value, answers: &[Answer]) -> Value {
    let case = |table: &Measured, case: &MeasuredCase| {
        let comparisons = table.comparisons(case);
        let goals: Vec<Value> = comparisons
            .iter()
            .map(|comparison| {
                json!({
                    "with": comparison.with, "ratio": comparison.ratio.median, "ratio_min": comparison.ratio.min,
                    "ratio_max": comparison.ratio.max, "bound": comparison.bound, "met": comparison.is_met,
                })
            })
            .collect();
        let summary = case.summary();
        json!({
            "name": case.name, "kind": case.kind.name(), "skipped": case.skipped,
            "median": summary.map(|summary| summary.median), "min": summary.map(|summary| summary.min),
            "max": summary.map(|summary| summary.max), "samples": case.samples, "above_floor": case.net, "goals": goals,
        })
    };
    let table = |table: &Measured| {
        let better = if table.better == Better::Lower { "lower" } else { "higher" };
        let cases: Vec<Value> = table.cases.iter().map(|of| case(table, of)).collect();
        json!({ "title": table.title, "unit": table.unit, "better": better, "cases": cases })
    };
    let questions: Vec<Value> = answers
        .iter()
        .map(|answer| {
            let tables: Vec<Value> = answer.tables.iter().map(table).collect();
            json!({ "key": answer.key, "title": answer.title, "tables": tables })
        })
        .collect();
    json!({ "format": 1, "machine": machine, "questions": questions })
}
