//! Huge pages on each node, and the trial that they can really be had.

use crate::config::Config;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::place::{Place, State};
use crate::root::Root;
use crate::sys;
use crate::wish::{Wish, Wishes};

/// The folder of a pool: a node's, or the machine's where it has no nodes.
fn pool(root: &Root, size: u64, node: u32) -> String {
    let kib = size >> 10;
    let on_node = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
    if root.exists(&on_node) {
        return on_node;
    }
    format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB")
}

/// At least so many pages: what others have asked for stays.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    for ((size, node), pages) in &config.huge {
        let place = Place::value(pool(&machine.root, *size, *node) + "/nr_hugepages");
        wishes.push(Wish::new(place, State::text(pages.to_string())).at_least());
    }
    Ok(wishes)
}

/// Maps and fills one page of each pool that was asked for, on its node.
///
/// # Errors
/// What could not be had, and why.
pub(crate) fn try_pages(machine: &Machine, config: &Config) -> Result<Vec<String>, Failure> {
    let mut tried = Vec::new();
    for ((size, node), pages) in config.huge.iter().filter(|(_, pages)| **pages > 0) {
        let folder = pool(&machine.root, *size, *node);
        let named = hybrid_conventions::Bytes(*size);
        let free = machine.root.text(format!("{folder}/free_hugepages")).unwrap_or_default();
        if free == "0" {
            tried.push(format!("{named} pages of node {node}: all {pages} in use, not tried"));
            continue;
        }
        let bytes = usize::try_from(*size).map_err(Failure::error)?;
        let on_node = (machine.nodes.len() > 1).then_some(*node);
        sys::huge::try_one(bytes, on_node).map_err(|error| {
            Failure::missing(format_args!(
                "a page of {named} on node {node} was mapped for a trial and could not be had: \
                 {error}, with {free} free; look at the hugetlb limit of this control group"
            ))
        })?;
        tried.push(format!("{named} pages of node {node}: one mapped and filled, {free} free"));
    }
    Ok(tried)
}
