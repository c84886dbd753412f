//! What is known of an interface outside rtnetlink.

use std::fs;
use std::path::Path;

use super::ethtool;
use super::snapshot::Link;
use crate::Mac;

/// The driver of an interface, and what its receive side does to packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    /// The driver's name; the kind of a virtual interface.
    pub(crate) driver: Option<String>,
    /// Whether the card joins received packets (LRO), which XDP excludes.
    pub(crate) lro: Option<bool>,
    /// Whether the card joins received packets in a way that can be undone.
    pub(crate) gro_hw: Option<bool>,
    /// Whether the card takes VLAN tags off before XDP sees the packet.
    pub(crate) vlan_strip: Option<bool>,
}

/// What is known of an interface of the calling thread's network namespace;
/// what cannot be known is `None`.
pub(crate) fn device_info(link: &Link) -> DeviceInfo {
    let features = ethtool::active_features(link.index).ok().flatten();
    let active = |name| features.as_ref().map(|features| features.contains(name));
    DeviceInfo {
        driver: driver(link).or_else(|| link.kind.clone()),
        lro: active("rx-lro"),
        gro_hw: active("rx-gro-hw"),
        vlan_strip: active("rx-vlan-hw-parse"),
    }
}

/// Whether programs get no header to see of frames in several buffers, as those of
/// this MTU are: what a program can look into is empty then. 6.4: f52ac7028bec
/// ("net/mlx5e: RX, Add XDP multi-buffer support in Striding RQ").
pub(crate) fn hides_headers(index: u32, mtu: u32) -> bool {
    /// Of mlx5 with pages of 4 KiB.
    const ONE_BUFFER_MTU: u32 = 3_498;
    let flags = || ethtool::active_private_flags(index).ok().flatten();
    mtu > ONE_BUFFER_MTU && flags().is_some_and(|flags| flags.contains("rx_striding_rq"))
}

/// How strictly IPv4 sources are checked on the interface: 0 not, 1 strictly,
/// 2 loosely. The larger of its own setting and that for all counts
/// (ip-sysctl, `rp_filter`).
pub(crate) fn rp_filter(name: &str) -> Option<u8> {
    let setting = |name: &str| -> Option<u8> {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(name).join("rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(setting("all")?.max(setting(name)?))
}

fn driver(link: &Link) -> Option<String> {
    let path = Path::new("/sys/class/net").join(&link.name);
    let attribute = |name| fs::read_to_string(path.join(name)).ok();
    // sysfs shows the namespace that it was mounted in, maybe another one.
    let index: u32 = attribute("ifindex")?.trim().parse().ok()?;
    let mac: Mac = attribute("address")?.trim().parse().ok()?;
    if index != link.index || mac != link.mac {
        return None;
    }
    let driver = fs::read_link(path.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}
