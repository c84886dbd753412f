//! What is known of an interface outside rtnetlink.

use std::fs;
use std::path::Path;

use super::Ethtool;
use super::snapshot::Link;
use crate::Mac;

/// The name of an interface's driver; of a virtual interface, its kind.
pub(crate) fn driver(link: &Link) -> Option<String> {
    of_device(link).or_else(|| link.kind.clone())
}

/// Whether programs get no header to see of frames in several buffers, as those of
/// this MTU are: what a program can look into is empty then. 6.4: f52ac7028bec
/// ("net/mlx5e: RX, Add XDP multi-buffer support in Striding RQ").
pub(crate) fn hides_headers(index: u32, mtu: u32) -> bool {
    /// Of mlx5 with pages of 4 KiB.
    const ONE_BUFFER_MTU: u32 = 3_498;
    let flags = || Ethtool::new().ok()??.private_flags(index).ok();
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

fn of_device(link: &Link) -> Option<String> {
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
