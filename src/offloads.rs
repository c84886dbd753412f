//! Receive offloads that XDP cannot have: off while the program is attached,
//! on again afterwards.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::Event;
use crate::bpf::CardRecord;
use crate::bpf::Maps;
use crate::bpf::OffloadCode;
use crate::bpf::name_record;
use crate::bpf::record_name;
use crate::event::Events;
use crate::net::Ethtool;
use crate::net::Features;
use crate::ports::Card;

/// What a network card can do to packets on reception that a load balancer in
/// XDP cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Offload {
    /// VLAN tags (802.1Q) are taken off.
    RxVlan,
    /// Service tags (802.1ad) are taken off.
    RxVlanStag,
    /// Large receive offload: packets are joined.
    Lro,
    /// Generic receive offload by the card: packets are joined.
    GroHw,
}

impl Offload {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::RxVlan, Self::RxVlanStag, Self::Lro, Self::GroHw];

    /// The name that `ethtool -K` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RxVlan => "rxvlan",
            Self::RxVlanStag => "rx-vlan-stag-hw-parse",
            Self::Lro => "lro",
            Self::GroHw => "rx-gro-hw",
        }
    }

    /// What it does that harms.
    pub const fn effect(self) -> &'static str {
        match self {
            Self::RxVlan | Self::RxVlanStag => "VLAN tags are removed before XDP sees them",
            Self::Lro | Self::GroHw => "packets are joined, and what is joined cannot be forwarded",
        }
    }

    /// The kernel's name (net/ethtool/common.c).
    const fn feature(self) -> &'static str {
        match self {
            Self::RxVlan => "rx-vlan-hw-parse",
            Self::RxVlanStag => "rx-vlan-stag-hw-parse",
            Self::Lro => "rx-lro",
            Self::GroHw => "rx-gro-hw",
        }
    }

    pub(crate) const fn code(self) -> OffloadCode {
        match self {
            Self::RxVlan => OffloadCode::XVS_OFFLOAD_RXVLAN,
            Self::RxVlanStag => OffloadCode::XVS_OFFLOAD_RXVLAN_STAG,
            Self::Lro => OffloadCode::XVS_OFFLOAD_LRO,
            Self::GroHw => OffloadCode::XVS_OFFLOAD_GRO_HW,
        }
    }

    /// Those that are on.
    pub(crate) fn active(features: &Features) -> Vec<Self> {
        let active = |offload: &Self| features.active.contains(offload.feature());
        Self::ALL.into_iter().filter(active).collect()
    }

    /// Those that are on and cannot be turned off.
    pub(crate) fn fixed(features: &Features) -> Vec<Self> {
        let mut fixed = Self::active(features);
        fixed.retain(|offload| !features.changeable.contains(offload.feature()));
        fixed
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Turns offloads off, in the network namespace of the thread that made it.
pub(crate) struct Offloads {
    /// None where the kernel lets nobody ask.
    ethtool: Option<Mutex<Ethtool>>,
    maps: Arc<Maps>,
    events: Arc<Events>,
}

impl fmt::Debug for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offloads").finish_non_exhaustive()
    }
}

impl Offloads {
    pub(crate) fn new(maps: Arc<Maps>, events: Arc<Events>) -> Self {
        let ethtool = Ethtool::new().ok().flatten().map(Mutex::new);
        Self { ethtool, maps, events }
    }

    /// Turns off what is on, on a card of an interface that the program is about
    /// to be attached to. What stays on is told by an event. What a former process had
    /// turned off counts as if this had.
    ///
    /// Nobody else may be writing the record of cards, here and when what is
    /// returned is dropped.
    pub(crate) fn turn_off(self: &Arc<Self>, card: &Card, device: u32) -> TurnedOff {
        let on = self.active(card.index);
        let before = self.turned_off(card, device);
        if on.is_empty() {
            return before;
        }
        let mut off_before = before.offloads.clone();
        off_before.retain(|offload| !on.contains(offload));
        before.leave();
        let all = [&off_before[..], &on].concat();
        let mut record = CardRecord {
            ifindex: card.index,
            device,
            name: name_record(&card.name),
            offloads_off: codes(&all),
            ..Default::default()
        };
        // First: the process may be killed at any moment.
        self.describe(card.index, &record);
        self.ask(card.index, on.iter().map(|offload| (*offload, false)));
        let still = self.active(card.index);
        let (still, off): (Vec<Offload>, _) = all.into_iter().partition(|o| still.contains(o));
        record.offloads_off = codes(&off);
        record.offloads_on = codes(&still);
        self.describe(card.index, &record);
        for offload in still {
            self.events.push(Event::OffloadOn { interface: card.name.clone(), offload });
        }
        TurnedOff { by: Some(Arc::clone(self)), card: card.clone(), offloads: off }
    }

    /// What is known to have been turned off on a card, which is one of this interface
    /// from now on.
    fn turned_off(self: &Arc<Self>, card: &Card, device: u32) -> TurnedOff {
        let cards = self.maps.cards.read(0);
        let known = cards.list.iter().find(|known| known.ifindex == card.index);
        let offloads = known.map(|known| of_codes(known.offloads_off)).unwrap_or_default();
        if let Some(known) = known.filter(|known| known.device != device) {
            self.describe(card.index, &CardRecord { device, ..*known });
        }
        TurnedOff { by: Some(Arc::clone(self)), card: card.clone(), offloads }
    }

    /// The same on all cards of an interface.
    pub(crate) fn all_turned_off(self: &Arc<Self>, device: u32) -> Vec<TurnedOff> {
        let cards = self.maps.cards.read(0);
        let of_device = cards.list.iter().filter(|card| card.ifindex != 0 && card.device == device);
        let card = |card: &CardRecord| Card { index: card.ifindex, name: record_name(&card.name) };
        of_device.map(|record| self.turned_off(&card(record), device)).collect()
    }

    fn active(&self, index: u32) -> Vec<Offload> {
        self.ethtool().map(|mut ethtool| active(&mut ethtool, index)).unwrap_or_default()
    }

    fn ask(&self, index: u32, wanted: impl Iterator<Item = (Offload, bool)>) {
        if let Some(mut ethtool) = self.ethtool() {
            ask(&mut ethtool, index, wanted);
        }
    }

    fn ethtool(&self) -> Option<MutexGuard<'_, Ethtool>> {
        Some(self.ethtool.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what readers are told of a card in place of what they were told.
    fn describe(&self, index: u32, record: &CardRecord) {
        let mut cards = self.maps.cards.read(0);
        let known = cards.list.iter().position(|card| card.ifindex == index);
        let free = || cards.list.iter().position(|card| card.ifindex == 0);
        if let Some(place) = known.or_else(free) {
            cards.list[place] = *record;
            self.maps.cards.write(0, &cards);
        }
    }
}

/// The offloads that were turned off on an interface; on again when this is
/// dropped, which is after the program is detached.
pub(crate) struct TurnedOff {
    /// `None`: they stay off.
    by: Option<Arc<Offloads>>,
    pub(crate) card: Card,
    offloads: Vec<Offload>,
}

impl TurnedOff {
    /// The card has another name now.
    pub(crate) fn rename(&mut self, name: &str) {
        if self.card.name == name {
            return;
        }
        name.clone_into(&mut self.card.name);
        let Some(by) = &self.by else { return };
        let cards = by.maps.cards.read(0);
        let known = cards.list.iter().find(|card| card.ifindex == self.card.index);
        if let Some(known) = known {
            by.describe(self.card.index, &CardRecord { name: name_record(name), ..*known });
        }
    }

    /// Lets them stay off, for the next process of the instance.
    pub(crate) fn leave(mut self) {
        self.by = None;
    }
}

impl Drop for TurnedOff {
    fn drop(&mut self) {
        let Some(by) = &self.by else { return };
        if !self.offloads.is_empty() {
            by.ask(self.card.index, self.offloads.iter().map(|offload| (*offload, true)));
        }
        by.describe(self.card.index, &CardRecord::default());
    }
}

impl fmt::Debug for TurnedOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { card, offloads, .. } = self;
        f.debug_struct("TurnedOff").field("card", card).field("offloads", offloads).finish()
    }
}

/// Turns offloads on again that a process which has died had turned off, in the
/// network namespace that the thread is in; those that are on then.
pub(crate) fn put_back(index: u32, offloads: &[Offload]) -> Vec<Offload> {
    if offloads.is_empty() {
        return Vec::new();
    }
    let Ok(Some(mut ethtool)) = Ethtool::new() else { return Vec::new() };
    ask(&mut ethtool, index, offloads.iter().map(|offload| (*offload, true)));
    active(&mut ethtool, index)
}

/// The offloads of a set of bits.
pub(crate) fn of_codes(codes: OffloadCode) -> Vec<Offload> {
    Offload::ALL.into_iter().filter(|offload| codes.0 & offload.code().0 != 0).collect()
}

fn codes(offloads: &[Offload]) -> OffloadCode {
    let none = OffloadCode::XVS_OFFLOAD_NONE.0;
    OffloadCode(offloads.iter().fold(none, |codes, offload| codes | offload.code().0))
}

/// Those that are on; none where it cannot be told.
fn active(ethtool: &mut Ethtool, index: u32) -> Vec<Offload> {
    ethtool.features(index).map(|features| Offload::active(&features)).unwrap_or_default()
}

/// Asks for offloads to be on (true) or off, again if a request was lost. What became
/// of it is in the features afterwards.
fn ask(ethtool: &mut Ethtool, index: u32, wanted: impl Iterator<Item = (Offload, bool)>) {
    let wanted: Vec<(&str, bool)> = wanted.map(|(offload, on)| (offload.feature(), on)).collect();
    if ethtool.set_features(index, wanted.iter().copied()).is_err() {
        let _ = ethtool.set_features(index, wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(active: &[&str], changeable: &[&str]) -> Features {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Features { active: set(active), changeable: set(changeable) }
    }

    #[test]
    fn what_is_fixed_is_known() {
        let some = features(&["rx-lro", "rx-gro", "rx-vlan-hw-parse"], &["rx-lro", "rx-gro-hw"]);
        assert_eq!(Offload::active(&some), [Offload::RxVlan, Offload::Lro]);
        assert_eq!(Offload::fixed(&some), [Offload::RxVlan]);
        assert!(Offload::active(&Features::default()).is_empty());
    }

    #[test]
    fn sets_of_bits_come_back() {
        assert!(of_codes(codes(&[])).is_empty());
        assert!(of_codes(CardRecord::default().offloads_off).is_empty());
        for offloads in [&Offload::ALL[..], &Offload::ALL[1..], &Offload::ALL[..1]] {
            assert_eq!(of_codes(codes(offloads)), offloads);
        }
    }
}
