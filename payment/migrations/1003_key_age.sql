-- Keys expire by their age. Rows are added in the order of their age, so a few pages of summaries find the old ones.
create index credit_keys_by_age on credit_keys using brin (created_at);
