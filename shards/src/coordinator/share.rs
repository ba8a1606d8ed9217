//! What one of many may have of what all of them need.

/// Whether a user who has `own` of what is scarce may have one more, when `all` of `limit` are taken: as long as as
/// many are left as he has. So nobody can use it up: alone he gets half of it, a second one half of the rest at least,
/// and whoever comes last finds some.
pub(super) fn leaves_room(own: u64, all: u64, limit: u64) -> bool {
    own < limit.saturating_sub(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_half_of_what_the_others_have_left_and_the_last_one_some() {
        let limit = 1_000;
        let mut all = 0;
        for most in [500, 250, 125, 63, 31] {
            let mut own = 0;
            while leaves_room(own, all, limit) {
                own += 1;
                all += 1;
            }
            assert_eq!(own, most);
        }
        assert!(all < limit && leaves_room(0, all, limit));
        assert!(!leaves_room(0, limit, limit) && !leaves_room(0, limit + 1, limit), "a limit may be lower than it was");
    }
}
