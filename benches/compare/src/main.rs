//! workring and its rivals, measured side by side in one run.
//!
//! Prints a table for each question, and writes one JSON file with every sample and a picture for each question.

mod bare;
mod kernels;
mod machine;
mod measure;
mod ours;
mod pace;
mod peer;
mod picture;
mod place;
mod questions;
mod report;
mod rivals;
#[path = "../../support/statistics.rs"]
mod statistics;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::questions::{ALL, Effort};
use crate::report::Answer;
use crate::statistics::Figure;

/// workring and its rivals, measured side by side in one run.
#[derive(Parser)]
struct Arguments {
    /// The questions to ask; unless some are named, all but the suites, which only a quick run asks then.
    questions: Vec<String>,
    /// Samples of each case, beside one that is thrown away.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Small sizes and one round: shows that everything works, its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// The folder for `compare.json` and the pictures.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Lists the questions.
    #[arg(long)]
    list: bool,
    /// Fails when a goal is missed.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    // Worker processes and the other processes of rivals are copies of this program.
    workring::worker_entry(&ours::known());
    rivals::be_quiet();
    peer::play_if_asked();
    let arguments = Arguments::parse();
    if arguments.list {
        for question in ALL {
            let when = if question.is_by_name { " (by name)" } else { "" };
            println!("{:<12} {}{when}", question.key, question.title);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(missed) if missed > 0 && arguments.strict => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Asks, prints and writes; returns how many goals were missed.
fn run(arguments: &Arguments) -> Result<usize, String> {
    if let Some(unknown) = arguments.questions.iter().find(|key| ALL.iter().all(|question| question.key != **key)) {
        return Err(format!("no question is called {unknown}; --list names them"));
    }
    if arguments.rounds == 0 {
        return Err("a ratio needs at least one round".into());
    }
    let effort = Effort { rounds: if arguments.quick { 1 } else { arguments.rounds }, is_quick: arguments.quick };
    let machine = machine::describe();
    println!("# workring and its rivals{}\n", if arguments.quick { " (quick: the figures mean nothing)" } else { "" });
    for (name, value) in machine.as_object().into_iter().flatten() {
        println!("- {}: {}", name.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let asked = ALL.iter().filter(|question| match arguments.questions.is_empty() {
        true => effort.is_quick || !question.is_by_name,
        false => arguments.questions.iter().any(|key| question.key == key),
    });
    let mut answers = Vec::new();
    for question in asked {
        let tables = (question.ask)(effort).map_err(|reason| format!("{}: {reason}", question.key))?;
        let answer = Answer { key: question.key, title: question.title, tables };
        println!("\n{}", report::markdown(&answer));
        answers.push(answer);
    }
    let (met, missed) = report::verdicts(&answers);
    match effort.is_quick {
        true => println!("goals are not judged in a quick run"),
        false => println!("{met} goals met, {} missed", missed.len()),
    }
    for (table, case, comparison) in missed.iter().filter(|_| !effort.is_quick) {
        let ratio = Figure::of_three_digits(comparison.ratio.median);
        println!("- {}: {}: {ratio}x of {}, not {}", table.title, case.name, comparison.with, comparison.bound);
    }
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", arguments.out.display());
    std::fs::create_dir_all(&arguments.out).map_err(|error| failed(&error))?;
    let json = report::json(&machine, &answers);
    let text = serde_json::to_string_pretty(&json).map_err(|error| failed(&error))? + "\n";
    std::fs::write(arguments.out.join("compare.json"), text).map_err(|error| failed(&error))?;
    answers.iter().try_for_each(|answer| picture::write(answer, &arguments.out)).map_err(|error| failed(&error))?;
    println!("\nwritten: {}", arguments.out.join("compare.json").display());
    Ok(missed.len())
}
