//! Contenders that take turns, and their measures.

use super::statistics::Rounds;

/// Returns the rounds, and the contenders in them. Each round begins with another contender. Round 0 is not counted,
/// because it opens connections and fills caches.
pub(crate) fn turns(rounds: usize, contenders: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..=rounds).flat_map(move |round| (0..contenders).map(move |turn| (round, (round + turn) % contenders)))
}

/// Prints the medians of the contenders, and their ratios to the last one.
pub(crate) fn print_ratios(contenders: &[&str], what: &str, measures: &[Rounds]) {
    println!("{what}; median, and ratio to the last [quartiles]");
    let last = &measures[measures.len() - 1];
    for (name, measure) in contenders.iter().zip(measures) {
        println!("  {name:<16} {:>8.1}   {}", measure.median(), measure.ratio(last).summary());
    }
}
