//! Tables of cases that are measured in turn: A B C, A B C, ...
//!
//! What disturbs the machine for longer than a round disturbs every case of it. So a ratio is the median, over the rounds, of one
//! case's figure by the other's *in the same round*. A case sets up what it needs in every round and takes it down again: a rival
//! that polls must not take a core from the others.

use std::io::{IsTerminal, Write};

use crate::statistics::Summary;

/// What a case is to the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ours,
    Rival,
    /// What the hardware, the system or the barest code gives: nobody is asked to beat it.
    Limit,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "workring",
            Self::Rival => "rival",
            Self::Limit => "limit",
        }
    }
}

/// Whether small or large figures are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    Lower,
    Higher,
}

/// With what a case of ours is compared.
#[derive(Clone, Debug)]
pub enum With {
    /// The rival of the table with the best median.
    BestRival,
    /// The best of the rivals whose names contain one of these.
    BestOf(&'static [&'static str]),
    /// One case.
    Case(String),
}

/// What the ratio to another case should be: at most so much where less is better, otherwise at least so much.
#[derive(Clone, Debug)]
pub struct Goal {
    pub with: With,
    pub bound: f64,
}

/// One sample: a figure, or why there is none.
pub type Sample = Result<f64, String>;

pub struct Case<'a> {
    name: String,
    kind: Kind,
    goals: Vec<Goal>,
    run: Box<dyn FnMut() -> Sample + 'a>,
}

/// Cases with one unit, measured in turn.
pub struct Table<'a> {
    pub title: String,
    pub unit: &'static str,
    pub better: Better,
    /// The case whose figure is contained in all the others, such as the kernel that everybody runs.
    floor: Option<String>,
    cases: Vec<Case<'a>>,
}

impl<'a> Table<'a> {
    pub fn new(title: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { title: title.into(), unit, better, floor: None, cases: Vec::new() }
    }

    fn case(&mut self, kind: Kind, name: impl Into<String>, run: impl FnMut() -> Sample + 'a) -> &mut Self {
        self.cases.push(Case { name: name.into(), kind, goals: Vec::new(), run: Box::new(run) });
        self
    }

    pub fn ours(&mut self, name: impl Into<String>, run: impl FnMut() -> Sample + 'a) -> &mut Self {
        self.case(Kind::Ours, format!("workring {}", name.into()), run)
    }

    pub fn rival(&mut self, name: impl Into<String>, run: impl FnMut() -> Sample + 'a) -> &mut Self {
        self.case(Kind::Rival, name, run)
    }

    pub fn limit(&mut self, name: impl Into<String>, run: impl FnMut() -> Sample + 'a) -> &mut Self {
        self.case(Kind::Limit, name, run)
    }

    /// What the case added last should reach.
    pub fn goal(&mut self, with: With, bound: f64) -> &mut Self {
        self.cases.last_mut().expect("a case").goals.push(Goal { with, bound });
        self
    }

    /// Says that the case added last is contained in the others.
    pub fn is_floor(&mut self) -> &mut Self {
        self.floor = Some(self.cases.last().expect("a case").name.clone());
        self
    }

    /// Takes all samples.
    ///
    /// # Errors
    /// When a case of ours gives no figure. A rival or a limit that gives none is reported as skipped.
    pub fn run(mut self, rounds: usize) -> Result<Measured, String> {
        let mut samples = vec![Vec::with_capacity(rounds); self.cases.len()];
        let mut skipped = vec![None; self.cases.len()];
        // The first round is thrown away.
        for round in 0..=rounds {
            for (at, case) in self.cases.iter_mut().enumerate() {
                if skipped[at].is_some() {
                    continue;
                }
                progress(&format!("{}: round {round} of {rounds}, {}", self.title, case.name));
                match (case.run)() {
                    Ok(sample) if sample.is_finite() && sample > 0.0 => {
                        if round > 0 {
                            samples[at].push(sample);
                        }
                    }
                    Ok(sample) => return Err(format!("{}: {}: a sample of {sample}", self.title, case.name)),
                    Err(reason) if case.kind == Kind::Ours => {
                        return Err(format!("{}: {}: {reason}", self.title, case.name));
                    }
                    Err(reason) => skipped[at] = Some(reason),
                }
            }
        }
        progress("");
        Ok(self.summarise(samples, skipped))
    }

    fn summarise(self, samples: Vec<Vec<f64>>, skipped: Vec<Option<String>>) -> Measured {
        let floor = self.floor.and_then(|name| self.cases.iter().position(|case| case.name == name));
        let floor = floor.filter(|&at| skipped[at].is_none()).map(|at| samples[at].clone());
        let cases = self.cases.into_iter().zip(samples).zip(skipped).map(|((case, samples), skipped)| {
            let net = floor.as_ref().filter(|_| skipped.is_none() && case.kind != Kind::Limit);
            let net = net.map(|floor| samples.iter().zip(floor).map(|(all, part)| all - part).collect());
            MeasuredCase { name: case.name, kind: case.kind, samples, net, skipped, goals: case.goals }
        });
        Measured { title: self.title, unit: self.unit, better: self.better, cases: cases.collect() }
    }
}

/// A table with its samples.
pub struct Measured {
    pub title: String,
    pub unit: &'static str,
    pub better: Better,
    pub cases: Vec<MeasuredCase>,
}

pub struct MeasuredCase {
    pub name: String,
    pub kind: Kind,
    pub samples: Vec<f64>,
    /// The samples without the floor of their rounds.
    pub net: Option<Vec<f64>>,
    pub skipped: Option<String>,
    goals: Vec<Goal>,
}

/// How a case of ours compares with another.
pub struct Comparison {
    pub with: String,
    pub ratio: Summary,
    pub bound: f64,
    pub is_met: bool,
}

impl Measured {
    /// The measured case of that kind, of those whose names contain one of `names` if there are any, with the best median.
    fn best(&self, names: &[&str]) -> Option<&MeasuredCase> {
        let of_kind = self.cases.iter().filter(|case| case.kind == Kind::Rival && case.skipped.is_none());
        let named = of_kind.filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name)));
        let median = |case: &MeasuredCase| Summary::of(&case.samples).median;
        named.min_by(|one, other| match self.better {
            Better::Lower => median(one).total_cmp(&median(other)),
            Better::Higher => median(other).total_cmp(&median(one)),
        })
    }

    /// The comparisons that a case asks for, as far as what it is compared with was measured.
    pub fn comparisons(&self, case: &MeasuredCase) -> Vec<Comparison> {
        let compare = |goal: &Goal| {
            let other = match &goal.with {
                With::BestRival => self.best(&[]),
                With::BestOf(names) => self.best(names),
                With::Case(name) => self.cases.iter().find(|case| case.name == *name && case.skipped.is_none()),
            }?;
            let ratio = Summary::of_ratios(&case.samples, &other.samples);
            let is_met = match self.better {
                Better::Lower => ratio.median <= goal.bound,
                Better::Higher => ratio.median >= goal.bound,
            };
            Some(Comparison { with: other.name.clone(), ratio, bound: goal.bound, is_met })
        };
        case.goals.iter().filter_map(compare).collect()
    }
}

impl MeasuredCase {
    pub fn summary(&self) -> Option<Summary> {
        self.skipped.is_none().then(|| Summary::of(&self.samples))
    }
}

/// Shows on a terminal what is being measured; an empty text takes the line away.
fn progress(text: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{text}");
        let _ = terminal.flush();
    }
}
