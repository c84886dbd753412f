//! The commands that `xvsctl balance` takes on its standard input.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use xvs::Destination;
use xvs::Tunnel;

use super::seconds;

/// One line of input: what becomes of a real server in every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// With how long its flows stay.
    Disable(IpAddr, Option<Duration>),
    Enable(IpAddr),
    Weight(IpAddr, u32),
    Add(IpAddr),
    Remove(IpAddr),
    Quit,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let address = |text: &str| -> Result<IpAddr, String> {
            text.parse().map_err(|_| format!("`{text}` is no IP address"))
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["disable", real] => Ok(Self::Disable(address(real)?, None)),
            ["disable", real, time] => {
                let deadline = seconds(time).map_err(|error| format!("`{time}`: {error}"))?;
                Ok(Self::Disable(address(real)?, Some(deadline)))
            }
            ["enable", real] => Ok(Self::Enable(address(real)?)),
            ["weight", real, weight] => {
                let number = weight.parse().map_err(|_| format!("`{weight}` is no weight"))?;
                Ok(Self::Weight(address(real)?, number))
            }
            ["add", real] => Ok(Self::Add(address(real)?)),
            ["remove", real] => Ok(Self::Remove(address(real)?)),
            ["quit"] => Ok(Self::Quit),
            _ => Err(format!(
                "`{line}` is none of: disable RIP [S], enable RIP, weight RIP N, add RIP, \
                 remove RIP, quit"
            )),
        }
    }
}

impl Command {
    /// The destinations as the command wants them; a new one is reached by a tunnel
    /// like the others.
    pub fn apply(
        self,
        destinations: &[Destination],
        tunnel: Tunnel,
    ) -> Result<Vec<Destination>, String> {
        let mut all = destinations.to_vec();
        let position = |real: IpAddr| all.iter().position(|d| d.address == real);
        let known = |real| position(real).ok_or_else(|| format!("there is no destination {real}"));
        match self {
            Self::Disable(real, deadline) => {
                let index = known(real)?;
                all[index].disabled = true;
                all[index].deadline = deadline;
            }
            Self::Enable(real) => {
                let index = known(real)?;
                all[index].disabled = false;
                all[index].deadline = None;
            }
            Self::Weight(real, weight) => {
                let index = known(real)?;
                all[index].weight = weight;
            }
            Self::Add(real) if position(real).is_some() => {
                return Err(format!("there is a destination {real} already"));
            }
            Self::Add(real) => all.push(Destination::new(real).tunnel(tunnel)),
            Self::Remove(real) => {
                let index = known(real)?;
                all.remove(index);
            }
            Self::Quit => {}
        }
        for destination in &all {
            destination.validate().map_err(|error| error.to_string())?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(line: &str, to: &[Destination]) -> Result<Vec<Destination>, String> {
        line.parse::<Command>()?.apply(to, Tunnel::gue(6080))
    }

    #[test]
    fn commands_change_one_destination() {
        let address = |n: u8| IpAddr::from([10, 1, 2, n]);
        let two = [Destination::new(address(3)), Destination::new(address(4))];
        let one = |d: &Destination| d.address == address(3);

        assert!(apply("disable 10.1.2.3", &two).unwrap().iter().all(|d| d.disabled == one(d)));
        let disabled = apply(" disable  10.1.2.3 ", &two).unwrap();
        assert_eq!(apply("enable 10.1.2.3", &disabled).unwrap(), two);
        let drained = apply("disable 10.1.2.3 2.5", &disabled).unwrap();
        assert_eq!(drained[0].deadline, Some(Duration::from_millis(2_500)));
        assert_eq!(apply("disable 10.1.2.3", &drained).unwrap(), disabled);
        assert_eq!(apply("enable 10.1.2.3", &drained).unwrap(), two);
        assert_eq!(apply("weight 10.1.2.4 7", &two).unwrap()[1].weight, 7);
        let added = apply("add 10.1.2.5", &two).unwrap();
        assert_eq!(added[..2], two);
        assert_eq!(added[2..], [Destination::new(address(5)).tunnel(Tunnel::gue(6080))]);
        assert_eq!(apply("remove 10.1.2.3", &two).unwrap(), two[1..]);
        assert_eq!("quit".parse(), Ok(Command::Quit));
    }

    #[test]
    fn wrong_commands_name_what_is_wrong() {
        let one = [Destination::new(IpAddr::from([10, 1, 2, 3]))];
        for (line, part) in [
            ("stop", "`stop` is none of"),
            ("disable", "`disable` is none of"),
            ("disable web1", "`web1` is no IP address"),
            ("disable 10.1.2.9", "no destination 10.1.2.9"),
            ("disable 10.1.2.3 soon", "`soon`"),
            ("disable 10.1.2.3 0.5", "500ms is not from 1 second"),
            ("remove 10.1.2.9", "no destination 10.1.2.9"),
            ("add 10.1.2.3", "10.1.2.3 already"),
            ("add 127.0.0.1", "127.0.0.1"),
            ("weight 10.1.2.3 heavy", "`heavy`"),
            ("weight 10.1.2.3 0", "weight 0"),
            ("weight 10.1.2.3 65536", "weight 65536"),
            ("quit now", "`quit now`"),
        ] {
            let error = apply(line, &one).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
